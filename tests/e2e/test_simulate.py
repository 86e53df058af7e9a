"""`simulate` as a person runs it: same seed, same bytes; bad input, a sentence."""

import json
from pathlib import Path

import pytest

from tests.e2e.support import TOOLS, Ended, clean_environment, in_real_time, process

pytestmark = pytest.mark.e2e


async def simulate(home: Path, *words: str, hash_seed: str = "0") -> Ended:
    environment = clean_environment(home) | {"PYTHONHASHSEED": hash_seed}
    return await process(str(TOOLS / "gpu-autoscaler"), "simulate", *words, environment=environment)


@in_real_time
async def test_twice_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    words = ("--seed", "7", "--days", "1", "--faults", "all", "--json")
    first = await simulate(tmp_path, *words, hash_seed="1")
    second = await simulate(tmp_path, *words, hash_seed="2")
    assert first.code == second.code == 0, first.err
    assert first.out == second.out
    told = json.loads(first.out)
    assert told["violation"] is None
    assert told["happened"]["daemon_killed"] > 10
    assert "--seed 7" in told["command"]
    other = await simulate(tmp_path, "--seed", "8", *words[2:])
    assert other.out != first.out


@in_real_time
async def test_a_table_for_people(tmp_path: Path) -> None:
    ended = await simulate(tmp_path, "--seed", "1", "--days", "0.2", "--workload", "dense")
    assert ended.code == 0, ended.err
    assert "No rule was broken." in ended.out
    assert "Mean wait" in ended.out


@in_real_time
async def test_a_trace_of_somebodys_own(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("submitted_at,duration,queue\n0,20m,small\n60,1200,H100-2-80G\n")
    ended = await simulate(tmp_path, "--days", "0.1", "--workload", str(trace), "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["figures"]["tasks_by_status"] == {"completed": 2}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--workload", "nowhere.csv"), 1, "nowhere.csv"),
        (("--days", "0"), 2, "--days"),
        (("--faults", "most"), 2, "none"),
        (("--seed", "x"), 2, "--seed"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    @in_real_time
    async def run() -> None:
        ended = await simulate(tmp_path, *words)
        assert ended.code == code
        assert says in ended.err
        assert "Traceback" not in ended.err

    run()
