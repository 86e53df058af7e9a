"""Memory on disk: whole or not at all, nobody else's, and never silently lost."""

import builtins
import json
import math
import os
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import EnumType
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gpu_autoscaler.domain.errors import StateInUse, StateRefused, StoreError
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Kept, Memory
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.store.directory import DirectoryStore, ReadOnlyStore

NOW = datetime(2026, 9, 7, 8, 0, tzinfo=UTC)
OTHER = Memory(planned_at=NOW)

MOMENTS = st.integers(0, 10**15).map(lambda number: NOW + timedelta(microseconds=number))
PLAIN: dict[object, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    bool: st.booleans(),
    int: st.integers(-1, 9),
    float: st.floats(0, 1e6),
    datetime: MOMENTS,
    timedelta: st.integers(-(10**10), 10**10).map(lambda number: timedelta(microseconds=number)),
    type(None): st.none(),
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Every value that a type annotation of the domain allows."""
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, EnumType):
        return st.sampled_from(list(kind))
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{f.name: anything(hints[f.name]) for f in fields(kind)})
    inner = [anything(each) for each in get_args(kind) if each is not ...]
    match get_origin(kind):
        case builtins.tuple if ... not in get_args(kind):
            return st.tuples(*inner)
        case builtins.tuple:
            return st.lists(inner[0], max_size=2).map(tuple)
        case builtins.frozenset:
            return st.frozensets(inner[0], max_size=2)
        case builtins.dict:
            return st.dictionaries(*inner, max_size=2)
    return st.one_of(inner)


MEMORIES = anything(Memory).map(lambda memory: replace(memory, version=SCHEMA_VERSION))


def saved(directory: Path, memory: Memory) -> None:
    with DirectoryStore(directory) as store:
        run_virtual(store.save(memory))


def loaded(directory: Path) -> Memory | None:
    with DirectoryStore(directory) as store:
        kept = run_virtual(store.load())
        assert (kept.ours, kept.holder) == (True, ""), "who has the lock has everything"
        return kept.memory


def test_an_empty_directory_holds_no_memory(tmp_path: Path) -> None:
    assert loaded(tmp_path / "made" / "on the way") is None


@settings(max_examples=40, deadline=None)
@given(memory=MEMORIES)
def test_every_memory_comes_back_as_it_was(
    memory: Memory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp() / "round-trip"
    saved(directory, memory)
    assert loaded(directory) == memory
    assert run_virtual(ReadOnlyStore(directory).load()) == Kept(memory)


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    saved(tmp_path, OTHER)
    assert (tmp_path / "memory.json").stat().st_mode & 0o777 == 0o600


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    saved(tmp_path, Memory(zones=("fr-par-1",)))
    saved(tmp_path, OTHER)
    assert loaded(tmp_path) == OTHER
    assert {p.name for p in tmp_path.iterdir()} <= {"memory.json", "lock"}


class Killed(BaseException):
    """What a SIGKILL leaves of a process: no clean-up of ours runs."""


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_killed_while_saving_the_old_memory_stays(
    owner: object, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, OTHER)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        with DirectoryStore(tmp_path) as store, pytest.raises(Killed):
            run_virtual(store.save(Memory(zones=("fr-par-1",))))
    assert loaded(tmp_path) == OTHER
    saved(tmp_path, Memory(zones=("fr-par-2",)))  # the half-written draft is in nobody's way
    assert loaded(tmp_path) == Memory(zones=("fr-par-2",))


def test_it_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def noted_replace(draft: Path, name: Path) -> Path:
        steps.append("replace")
        return rename(draft, name)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    saved(tmp_path, OTHER)
    assert steps == ["fsync", "replace", "fsync"], "the content, then the name"


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_a_sentence_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, OTHER)
    with monkeypatch.context() as patch, DirectoryStore(tmp_path) as store:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"memory\.json: cannot be written \(No space left"):
            run_virtual(store.save(Memory()))
    assert loaded(tmp_path) == OTHER
    assert not (tmp_path / "memory.new").exists()


def test_nothing_may_be_begun_while_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DirectoryStore(tmp_path) as store:
        assert store.lease_left() == math.inf, "nothing was tried yet"
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", full)
            with pytest.raises(StoreError):
                run_virtual(store.save(Memory()))
        assert store.lease_left() == 0.0
        run_virtual(store.save(OTHER))
        assert store.lease_left() == math.inf
        run_virtual(store.release())
        assert store.lease_left() == math.inf, "the lock is given back with the directory"


def test_the_age_of_memory_tells_a_daemon_that_died_from_one_that_lives(tmp_path: Path) -> None:
    with DirectoryStore(tmp_path) as store:
        assert run_virtual(store.age()) is None
        run_virtual(store.save(OTHER))
        age = run_virtual(store.age())
        assert age is not None
        assert timedelta(0) <= age < timedelta(minutes=5)
    hour_ago = (tmp_path / "memory.json").stat().st_mtime - 3600
    os.utime(tmp_path / "memory.json", (hour_ago, hour_ago))
    with DirectoryStore(tmp_path) as store:
        age = run_virtual(store.age())
        assert age is not None
        assert timedelta(minutes=60) <= age < timedelta(minutes=65)


def taken(directory: Path) -> bool:
    """Take the directory and give it back."""
    with DirectoryStore(directory):
        return True


def test_a_second_daemon_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    with DirectoryStore(tmp_path):
        with pytest.raises(StateInUse, match="another daemon uses this state directory; stop it"):
            taken(tmp_path)
        assert run_virtual(ReadOnlyStore(tmp_path).load()) == Kept(None), "plan may look"
    assert taken(tmp_path), "the first has gone: its lock with it"


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be used as state directory .*set state_dir to"):
        taken(tmp_path / "file" / "state")


def test_a_directory_that_may_not_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:  # not by permission bits: root, who may run this, ignores them
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StoreError, match=r"\(Read-only file system\); set state_dir to"):
        taken(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\x00", b'{"version": 1, "planned_at": "soon"}', b'{"pending": 3}'],
)
def test_what_cannot_be_read_is_set_aside_and_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_bytes(content)
    with capture_logs() as lines:
        assert loaded(tmp_path) is None
    (line,) = lines
    aside = Path(line["set_aside"])
    assert aside.read_bytes() == content, "kept for whoever wants to know"
    assert line["log_level"] == "error"
    assert not (tmp_path / "memory.json").exists()
    saved(tmp_path, OTHER)
    assert loaded(tmp_path) == OTHER


def test_what_cannot_be_set_aside_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memory.json"
    file.write_bytes(b"{")
    with monkeypatch.context() as patch, DirectoryStore(tmp_path) as store:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match=r"memory\.json: unreadable.*No space.*; move it away"):
            run_virtual(store.load())
    assert file.read_bytes() == b"{"


def test_the_memory_of_a_newer_daemon_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    newer = json.dumps({"version": SCHEMA_VERSION + 1, "what": "nobody here knows"})
    file.write_text(newer)
    with pytest.raises(StateRefused, match=f"newer version .*schema {SCHEMA_VERSION + 1}"):
        loaded(tmp_path)
    assert file.read_text() == newer


def test_a_memory_that_may_not_be_read_is_refused_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "memory.json").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        loaded(tmp_path)


def test_the_read_only_store_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    file.write_bytes(b"{")
    store = ReadOnlyStore(tmp_path)
    assert run_virtual(store.load()) == Kept(None)
    run_virtual(store.save(OTHER))
    run_virtual(store.release())
    assert store.lease_left() == math.inf
    assert {p.name for p in tmp_path.iterdir()} == {"memory.json"}
    assert file.read_bytes() == b"{"


def test_durations_do_not_drift(tmp_path: Path) -> None:
    """Moments keep their microseconds: a clock compared with itself must not seem to move."""
    moment = NOW + timedelta(microseconds=1)
    saved(tmp_path, Memory(planned_at=moment))
    kept = loaded(tmp_path)
    assert kept is not None
    assert kept.planned_at == moment
