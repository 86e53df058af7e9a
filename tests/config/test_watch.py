import asyncio
import os
from pathlib import Path

import pytest

from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.config.watch import ConfigWatcher, Reload

PROJECT = "11111111-2222-3333-4444-555555555555"


def text(maximum: object = 2, fleet: str = "lab") -> str:
    return (
        f"fleet: {fleet}\n"
        f"scaleway: {{project_id: {PROJECT}}}\n"
        "queues:\n"
        "  train:\n"
        f"    max_instances: {maximum}\n"
        "    placements: [{type: H100-1-80G, zone: fr-par-2}]\n"
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "queues.yaml"
    path.write_text(text())
    return path


def look(watcher: ConfigWatcher) -> Reload | None:
    """What it has to tell now."""
    return asyncio.run(watcher.refresh())


def maximum(watcher: ConfigWatcher) -> int:
    return watcher.current().queues["train"].max_instances


def test_there_is_no_watcher_without_a_first_good_configuration(file: Path) -> None:
    file.write_text("fleet: [")
    with pytest.raises(ConfigError):
        ConfigWatcher.of_file(file, {})
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        ConfigWatcher.of_file(file, {})


def test_an_unchanged_or_touched_file_is_no_news(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    assert look(watcher) is None
    os.utime(file, (1, 1))
    assert look(watcher) is None
    file.write_text("# a comment\n" + text())
    assert look(watcher) is None


def test_an_unchanged_file_is_not_parsed_again(file: Path) -> None:
    env = {"MAX": "3"}
    file.write_text(text("${MAX}"))
    watcher = ConfigWatcher.of_file(file, env)
    env["MAX"] = "4"
    assert look(watcher) is None
    assert maximum(watcher) == 3


def test_a_change_is_told_once_and_in_force(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    file.write_text(text(5))
    news = look(watcher)
    assert news is not None
    assert (news.error, news.mended) == (None, False)
    assert news.config is watcher.current()
    assert maximum(watcher) == 5
    assert look(watcher) is None


def test_a_change_of_the_same_size_and_time_is_seen(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    before = file.stat()
    file.write_text(text(3))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(watcher) is not None
    assert maximum(watcher) == 3


def test_a_mistake_is_told_once_and_the_last_good_one_kept(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    good = watcher.current()
    file.write_text(text("two"))
    news = look(watcher)
    assert news is not None
    assert news.config is good
    assert "queues.yaml:5: queues.train.max_instances: 'two'" in str(news.error)
    assert look(watcher) is None
    assert watcher.current() is good

    file.write_text(text("three"))
    another = look(watcher)
    assert another is not None
    assert "'three'" in str(another.error)

    file.write_text(text(4))
    mended = look(watcher)
    assert mended is not None
    assert (mended.error, mended.mended) == (None, True)
    assert maximum(watcher) == 4
    assert look(watcher) is None


def test_going_back_to_what_is_in_force_mends_too(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    file.write_text("")
    assert look(watcher) is not None
    file.write_text(text())
    news = look(watcher)
    assert news is not None
    assert news.mended
    assert look(watcher) is None


def test_a_file_that_disappears_is_told_once(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    file.unlink()
    news = look(watcher)
    assert news is not None
    assert "no such file" in str(news.error)
    assert look(watcher) is None
    assert maximum(watcher) == 2
    file.write_text(text())
    back = look(watcher)
    assert back is not None
    assert back.mended


def test_a_file_replaced_by_renaming_is_seen(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    beside = file.with_suffix(".new")
    beside.write_text(text(7))
    beside.replace(file)
    assert look(watcher) is not None
    assert maximum(watcher) == 7


def test_a_mounted_volume_that_swaps_a_symbolic_link_is_seen(tmp_path: Path) -> None:
    for version, value in (("v1", 1), ("v2", 9)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "queues.yaml").write_text(text(value))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "queues.yaml").symlink_to("..data/queues.yaml")
    watcher = ConfigWatcher.of_file(tmp_path / "queues.yaml", {})
    assert maximum(watcher) == 1
    (tmp_path / "..next").symlink_to("v2")
    (tmp_path / "..next").replace(tmp_path / "..data")
    assert look(watcher) is not None
    assert maximum(watcher) == 9


def test_what_the_daemon_was_built_around_does_not_change_under_it(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    file.write_text(text(9, fleet="other"))
    news = look(watcher)
    assert news is not None
    assert "fleet: cannot change while the daemon runs (now 'lab'); restart it" in str(news.error)
    assert look(watcher) is None
    assert (watcher.current().fleet, maximum(watcher)) == ("lab", 2)
    file.write_text(text(9))
    assert look(watcher) is not None
    assert maximum(watcher) == 9


def test_where_the_memory_is_does_not_change_under_it(file: Path) -> None:
    watcher = ConfigWatcher.of_file(file, {})
    file.write_text(text() + "store: {bucket: my-bucket}\n")
    news = look(watcher)
    assert news is not None
    assert (
        "store: cannot change while the daemon runs (now ''); restart it to use 's3://my-bucket/"
        "gpu-autoscaler/lab.json at https://s3.fr-par.scw.cloud (fr-par), lease 3m'"
    ) in str(news.error)
    assert watcher.current().store is None
