# The two commands of the README are `make demo` and `make test`; the rest serves them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lock bench mutants clean
.DEFAULT_GOAL := test

$(VENV)/.installed: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; say which with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.terraform: requirements-terraform.txt $(VENV)/.installed  # for tests/terraform
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes -r requirements-terraform.txt
	@touch $@

demo: $(VENV)/.installed  ## two simulated days on this machine, live
	$(BIN)/gpu-autoscaler demo

check: $(VENV)/.installed  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## everything that CI runs
	$(BIN)/pytest -n 2 --dist loadgroup -q

bench: $(VENV)/.installed  ## time and memory, printed as a table
	$(BIN)/pytest -q -s tests/benchmarks

mutants: $(VENV)/.installed  ## mutation tests of the policy, about an hour of two cores: 90 % must be killed
	rm -rf mutants && mkdir mutants
	nice -n 10 $(BIN)/mutmut run > mutants/run.log 2>&1 || { tail -c 2000 mutants/run.log; exit 1; }
	$(BIN)/python -m tests.policy.mutants

lock: $(VENV)/.installed  ## resolve the dependencies anew, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra dev pyproject.toml -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-deps --group terraform -o requirements-terraform.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants
