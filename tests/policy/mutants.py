"""The score of a mutation run (`make mutants`), and what makes that run quick.

As a pytest plugin it puts the tests of the mutated module first: most mutants die at once. As a
script it reads what mutmut left, prints the score and the survivors, and fails below the bound.
"""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

POLICY = Path("src/gpu_autoscaler/policy")
LEAST = 90.0
"""Percent of all mutants."""
TIMES = Path("mutmut-stats.json")
"""How long each test took without a mutant; mutmut writes it before the first one."""
LONGEST = 0.3
"""Seconds: some stories of weeks are most of what all tests take, and kill few mutants alone."""
KILLED = ("killed", "timeout")
"""A mutant that runs for ever would be noticed, too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The mutated module's own tests first, quick ones before others, and none that is long."""
    mutated = os.environ.get("MUTANT_UNDER_TEST", "")
    module = mutated.partition(".x")[0].rpartition(".")[2]
    took = json.loads(TIMES.read_text())["duration_by_test"] if TIMES.exists() else {}

    def rank(item: pytest.Item) -> tuple[bool, float]:
        return not item.path.stem.startswith(f"test_{module}"), took.get(item.nodeid, 0.0)

    items[:] = sorted((i for i in items if took.get(i.nodeid, 0.0) <= LONGEST), key=rank)


def _changes(mutant: str, path: Path) -> str:
    """What the mutant changes, on a line for the old and one for the new text."""
    lines = [
        re.sub(r"\s+", " ", line)
        for line in get_diff_for_mutant(mutant, path=path).splitlines()
        if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))
    ]
    old, new = ("".join(e[1:] for e in lines if e.startswith(sign)) for sign in "-+")
    return f"      -{old}\n      +{new}"


def main() -> int:
    """Print what became of every mutant; the exit code."""
    total: Counter[bool] = Counter()
    for path in sorted(POLICY.glob("*.py")):
        data = SourceFileMutationData(path=path)
        data.load()
        fates = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
        if not fates:
            continue
        counts = Counter(fate in KILLED for fate in fates.values())
        total += counts
        print(_row(path.stem, counts))
        for name, fate in fates.items():
            if fate not in KILLED:
                print(f"   {name.rpartition('.')[2]}: {fate}\n{_changes(name, path)}")
    print(_row("all", total))
    return 0 if _score(total) >= LEAST else 1


def _score(counts: Counter[bool]) -> float:
    return 100 * counts[True] / max(1, counts.total())


def _row(name: str, counts: Counter[bool]) -> str:
    return f"{name:12} {counts[True]:5} of {counts.total():5} killed  {_score(counts):5.1f} %"


if __name__ == "__main__":
    sys.exit(main())
