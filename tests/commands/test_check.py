"""`check --online`: every question by its name, and for each that fails a sentence."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_autoscaler.commands import check as checking
from gpu_autoscaler.commands import storing
from gpu_autoscaler.commands.check import Finding, as_json, check_online, show
from gpu_autoscaler.config.models import StoreConfig
from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.memory import SCHEMA_VERSION
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.emulator.faults import FaultKind
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.store.bucket import Blob
from tests.commands.site import QUEUE, TYPE, ZONE, Site

LOGIN = "ClearML login at http://clearml.test"
SERVERS, VOLUMES = f"Scaleway servers in {ZONE}", f"Scaleway volumes in {ZONE}"
PLACEMENT = f"{QUEUE}: {TYPE} in {ZONE}"
IMAGE = f"{QUEUE}: image ubuntu_jammy_gpu_os_12 for {TYPE} in {ZONE}"


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def go(prepare: Callable[[Site], Awaitable[None]], **yaml: str) -> dict[str, Finding]:
        async def main() -> dict[str, Finding]:
            site = Site(tmp_path, checking, monkeypatch, **yaml)
            await prepare(site)
            site.calls.clear()
            findings = await check_online(site.setup, site.clock)
            assert site.calls.count("^(PATCH|DELETE|PUT)|/action|POST /instance") == 0
            return {finding.what: finding for finding in findings}

        return run_virtual(main())

    return go


async def nothing(site: Site) -> None:
    """As it should be."""


def bad(findings: dict[str, Finding]) -> dict[str, str]:
    return {what: each.error for what, each in findings.items() if not each.good}


def test_when_all_is_well_everything_was_asked(checked: Any) -> None:
    findings = checked(nothing)
    assert set(findings) == {LOGIN, SERVERS, VOLUMES, f"queue {QUEUE}", PLACEMENT, IMAGE}
    assert bad(findings) == {}


def test_a_missing_queue_is_named_with_what_to_do(checked: Any) -> None:
    async def rename(site: Site) -> None:
        site.clearml.queues.get(site.queue_id).name = "renamed"

    assert bad(checked(rename)) == {
        f"queue {QUEUE}": "ClearML has no queue of this name; create it, or rename"
    }


def test_a_type_the_zone_lacks_is_named_with_those_it_has(checked: Any) -> None:
    found = bad(checked(nothing, type="H100-9-80G"))
    placement = found[f"{QUEUE}: H100-9-80G in {ZONE}"]
    assert placement.startswith(f"not offered there; {ZONE} has H100-1-80G, ")
    assert set(found) == {
        f"{QUEUE}: H100-9-80G in {ZONE}",
        f"{QUEUE}: image ubuntu_jammy_gpu_os_12 for H100-9-80G in {ZONE}",
    }


def test_a_zone_with_nothing_like_it_says_so(checked: Any) -> None:
    found = bad(checked(nothing, type="Z80-1"))
    assert found[f"{QUEUE}: Z80-1 in {ZONE}"] == f"not offered there; {ZONE} has nothing like it"


@pytest.mark.parametrize(
    ("kind", "scratch", "error"),
    [
        (TYPE, "3TB", None),
        (TYPE, "3001GB", "has at most 3TB of scratch"),
        ("L4-1-24G", "0", None),
        ("L4-1-24G", "1GB", "has no scratch"),
    ],
)
def test_more_scratch_than_the_type_can_have_is_named(
    checked: Any, kind: str, scratch: str, error: str | None
) -> None:
    async def ask(site: Site) -> None:
        site.file.write_text(f"{site.file.read_text()}    scratch: {scratch}\n")

    expected = {f"{QUEUE}: {kind} in {ZONE}": error} if error else {}
    assert bad(checked(ask, type=kind)) == expected


@pytest.mark.parametrize(
    ("match", "what"),
    [
        ("users.get_current_user", {LOGIN}),
        (rf"GET /instance/v1/zones/{ZONE}/servers", {SERVERS}),
        ("GET /block/", {VOLUMES}),
    ],
)
def test_one_that_does_not_answer_is_bad_alone(checked: Any, match: str, what: set[str]) -> None:
    async def fail(site: Site) -> None:
        site.faults.add(FaultKind.ERROR, match)

    found = bad(checked(fail))
    assert set(found) == what
    assert all(found.values()), "with a sentence"


class Deaf(InMemoryBucket):
    """A service that takes every write."""

    async def put(self, content: bytes, replaces: str | None) -> str:
        return self.write(content)


class Forbidden(InMemoryBucket):
    """A service that lets nobody in."""

    async def get(self) -> Blob | None:
        raise StoreError("s3://my-bucket/x: cannot be read (HTTP 403)")


FORBIDDEN = "s3://my-bucket/x: cannot be read (HTTP 403)"


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        (InMemoryBucket, ["", ""]),
        (Deaf, ["", "a write that named a wrong version was not refused: two daemons could act"]),
        (Forbidden, [FORBIDDEN, FORBIDDEN]),
    ],
)
def test_the_bucket_is_read_and_its_conditions_are_tried(
    checked: Any, monkeypatch: pytest.MonkeyPatch, kind: type[InMemoryBucket], errors: list[str]
) -> None:
    asked: list[str | None] = []

    async def use_bucket(site: Site) -> None:
        site.use_bucket(monkeypatch)
        bucket = kind(site.clock)

        def of(settings: StoreConfig, _: object) -> InMemoryBucket:
            asked.append(settings.key)
            return bucket

        monkeypatch.setattr(storing, "bucket_of", of)

    findings = checked(use_bucket)
    where = "bucket my-bucket at https://s3.fr-par.scw.cloud"
    read, conditions = findings[f"memory in {where}"], findings[f"conditional writes in {where}"]
    for found, error in zip((read, conditions), errors, strict=True):
        assert found.error.startswith(error)
        assert found.good is (error == "")
    memory = "gpu-autoscaler/test.json"
    assert asked == [memory, f"{memory}.probe"], "the memory itself is never written"


def test_the_memory_of_a_newer_daemon_is_a_finding(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use_bucket(site: Site) -> None:
        newer = {"version": SCHEMA_VERSION + 1, "lease": "nobody here knows"}
        site.use_bucket(monkeypatch).write(json.dumps(newer).encode())

    assert any("newer version" in error for error in bad(checked(use_bucket)).values())


@pytest.mark.parametrize(
    ("findings", "said", "good"),
    [
        ([Finding("a"), Finding("b")], "ok   a\nok   b\n", True),
        ([Finding("a"), Finding("b", "is [missing]")], "ok   a\nbad  b: is [missing]\n", False),
    ],
)
def test_what_was_found_is_printed(
    findings: list[Finding],
    said: str,
    good: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        site = Site(tmp_path, checking, monkeypatch)
        show(findings, site.console)
        assert site.said == said
        assert json.loads(as_json(findings))["ok"] is good

    run_virtual(main())


@pytest.mark.parametrize("json_only", [True, False])
@pytest.mark.parametrize(("fault", "code"), [("", 0), ("queues.get_all", 1)])
def test_what_was_found_decides_the_code(
    fault: str, code: int, json_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        site = Site(tmp_path, checking, monkeypatch)
        if fault:
            site.faults.add(FaultKind.ERROR, fault)
        setup, clock, console = site.setup, site.clock, site.console
        found = await checking.check(setup, clock, console, online=True, json_only=json_only)
        assert found == code
        assert site.said.startswith("{" if json_only else "ok")

    run_virtual(main())
