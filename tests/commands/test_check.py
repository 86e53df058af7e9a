"""`check --online`: every question, and for each answer that is not good what to do."""

import functools
import io
import json
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from gpu_autoscaler.commands import check as checking
from gpu_autoscaler.commands import storing, wiring
from gpu_autoscaler.commands.check import check_online
from gpu_autoscaler.commands.emulate import EMULATED_KEY
from gpu_autoscaler.commands.findings import Finding, Level, as_json, bad, good, note, show
from gpu_autoscaler.config.services import StoreConfig
from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.memory import SCHEMA_VERSION
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.emulator import scaleway_api
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.emulator.clearml_records import User
from gpu_autoscaler.emulator.faults import FaultKind
from gpu_autoscaler.emulator.scaleway_http import FLEET_ACCESS, FULL_ACCESS
from gpu_autoscaler.emulator.scaleway_wire import type_json
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.scaleway.access import NOTHING
from gpu_autoscaler.store.bucket import Blob
from tests.commands.site import QUEUE, TYPE, ZONE, Site

LOGIN = "login as emulated"
SERVERS, VOLUMES, TYPES = f"servers in {ZONE}", f"volumes in {ZONE}", f"types in {ZONE}"
NO_GROUP, GROUP = "security group", f"security group in {ZONE}"
PLACEMENT = f"{TYPE} in {ZONE}"
IMAGE = f"image ubuntu_jammy_gpu_os_12 for {TYPE} in {ZONE}"
INSTANCES, BLOCK = "InstancesFullAccess", "BlockStorageFullAccess"
RIGHTS, LIFETIME, QUOTAS = "changing tasks and queues", "the key's lifetime", "quotas"
QUEUE_FOUND = f"queue {QUEUE}"


Prepare = Callable[[Site], Awaitable[None]]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is found, by what was asked; nothing is made, changed or removed by it."""

    def go(prepare: Prepare, **yaml: str) -> dict[str, Finding]:
        async def main() -> dict[str, Finding]:
            site = Site(tmp_path, checking, monkeypatch, **yaml)
            await prepare(site)
            before = _state(site)
            findings = await check_online(site.setup, site.clock)
            assert _state(site) == before
            return {finding.what: finding for finding in findings}

        return run_virtual(main())

    return go


def _state(site: Site) -> tuple[object, ...]:
    queues, tasks = site.clearml.queues.all, site.clearml.tasks.all
    return (
        sorted(site.servers()),
        [v.id for v in site.scaleway.block.find(ZONE)],
        {queue.name: list(queue.tags) for queue in queues.values()},
        {task.id: task.status for task in tasks.values()},
    )


async def nothing(site: Site) -> None:
    """As it should be, but for the security group, which nobody made."""


def at(level: Level, findings: dict[str, Finding]) -> dict[str, str]:
    return {what: each.said for what, each in findings.items() if each.level is level}


def badly(findings: dict[str, Finding]) -> dict[str, str]:
    return at(Level.BAD, findings)


def notes(findings: dict[str, Finding]) -> dict[str, str]:
    """What is worth knowing, but for what always is here: no security group, no clock."""
    found = at(Level.NOTE, findings)
    return {what: said for what, said in found.items() if what not in (NO_GROUP, "clock")}


def test_when_all_is_well_everything_was_asked(checked: Any) -> None:
    findings = checked(nothing)
    clearml = {LOGIN, "clock", "workers and tasks", RIGHTS, "the agents' key"}
    scaleway = {SERVERS, VOLUMES, TYPES, NO_GROUP, INSTANCES, BLOCK, LIFETIME, QUOTAS}
    assert set(findings) == {*clearml, *scaleway, QUEUE_FOUND, PLACEMENT, IMAGE}
    assert badly(findings) == {}
    assert notes(findings) == {}
    assert findings[PLACEMENT].said == "2.87 €/h, in stock"
    assert findings[LOGIN].said == "its tokens last 30d and are renewed by themselves"
    assert findings["the agents' key"].said == "is the daemon's own"


# --- ClearML


def test_a_missing_queue_is_named_with_what_to_do(checked: Any) -> None:
    async def rename(site: Site) -> None:
        site.clearml.queues.get(site.queue_id).name = "renamed"

    assert badly(checked(rename)) == {
        QUEUE_FOUND: "ClearML has no queue of this name; create it, or rename"
    }


@pytest.mark.parametrize("method", ["tasks.enqueue", "tasks.stopped", "queues.update"])
def test_a_change_that_clearml_forbids_is_named(checked: Any, method: str) -> None:
    async def forbid(site: Site) -> None:
        site.faults.add(FaultKind.ERROR, method, status=403)

    assert badly(checked(forbid))[RIGHTS].startswith(f"refused: {method}; give emulated a role")


@pytest.mark.parametrize(
    ("who", "level", "said"),
    [
        (User("u2", "Agents", "AGENTKEY", "agent-secret"), Level.NOTE, "is Agents's, the daemon's"),
        (User("__emulated__", "emulated", "AGENTKEY", "agent-secret"), Level.OK, "another key of"),
        (None, Level.BAD, "no instance would ever become a worker"),
    ],
)
def test_whose_key_the_agents_have(
    checked: Any, monkeypatch: pytest.MonkeyPatch, who: User | None, level: Level, said: str
) -> None:
    async def give_another(site: Site) -> None:
        site.secrets |= {
            "GPU_AUTOSCALER_AGENT_CLEARML_ACCESS_KEY": "AGENTKEY",
            "GPU_AUTOSCALER_AGENT_CLEARML_SECRET_KEY": "agent-secret",
        }
        if who:
            site.clearml.users["AGENTKEY"] = who

    found = checked(give_another)["the agents' key"]
    assert found.level is level
    assert said in found.said
    assert "agent-secret" not in found.said


def test_a_clearml_that_refuses_the_key_is_said_once(checked: Any) -> None:
    async def forget(site: Site) -> None:
        site.clearml.users.clear()

    findings = checked(forget)
    refused = badly(findings)
    assert set(refused) == {"login"}
    assert "GPU_AUTOSCALER_CLEARML_SECRET_KEY" in refused["login"]
    assert PLACEMENT in findings, "Scaleway was asked all the same"


def test_a_listing_that_fails_is_bad_alone(checked: Any) -> None:
    async def fail(site: Site) -> None:
        site.faults.add(FaultKind.ERROR, "workers.get_all")

    assert set(badly(checked(fail))) == {"workers and tasks"}


# --- what is sold


def test_a_type_the_zone_lacks_is_named_with_those_it_has(checked: Any) -> None:
    found = badly(checked(nothing, type="H100-9-80G"))
    said = found[f"H100-9-80G in {ZONE}"]
    assert said.startswith(f"not offered there; {ZONE} has H100-1-80G, ")
    assert set(found) == {f"H100-9-80G in {ZONE}"}, "and nothing about its image"


def test_a_type_that_is_sold_elsewhere_is_named_with_where(checked: Any) -> None:
    found = badly(checked(nothing, zone="fr-par-1"))
    assert found == {f"{TYPE} in fr-par-1": "not offered there, but in fr-par-2, pl-waw-2"}


def test_a_zone_with_nothing_like_it_says_so(checked: Any) -> None:
    found = badly(checked(nothing, type="Z80-1"))
    assert found[f"Z80-1 in {ZONE}"] == f"not offered there; {ZONE} has nothing like it"


def test_a_zone_that_does_not_exist_is_named_with_those_that_do(checked: Any) -> None:
    found = badly(checked(nothing, zone="fr-par-9"))
    assert list(found) == ["types in fr-par-9"]
    assert "is the zone's name right? There are fr-par-1, fr-par-2, " in found["types in fr-par-9"]


@pytest.mark.parametrize(
    ("kind", "scratch", "error"),
    [
        (TYPE, "3TB", None),
        (TYPE, "3001GB", "has at most 3TB of scratch; scratch is 3001GB"),
        ("L4-1-24G", "0", None),
        ("L4-1-24G", "1GB", "has no scratch; scratch is 1GB"),
    ],
)
def test_more_scratch_than_the_type_can_have_is_named(
    checked: Any, kind: str, scratch: str, error: str | None
) -> None:
    async def ask(site: Site) -> None:
        site.append(f"    scratch: {scratch}\n")

    expected = {f"{kind} in {ZONE}": error} if error else {}
    assert badly(checked(ask, type=kind)) == expected


def test_an_image_that_does_not_fit_is_named_with_those_that_would(checked: Any) -> None:
    async def ask(site: Site) -> None:
        site.append("    image: ubuntu_noble\n")

    (said,) = badly(checked(ask)).values()
    assert "does not fit" in said
    assert " others; ubuntu_jammy" in said, "not a hundred of them"
    assert said.endswith(
        "ubuntu_jammy_gpu_os_12, ubuntu_noble_gpu_os_12, ubuntu_noble_gpu_os_13_nvidia would"
    )


@pytest.mark.parametrize(("size", "tight"), [("124GB", True), ("125GB", False)])
def test_a_root_volume_below_scaleways_advice_is_noted(
    checked: Any, size: str, tight: bool
) -> None:
    async def ask(site: Site) -> None:
        site.append(f"    volume: {{size: {size}}}\n")

    findings = checked(ask)
    assert badly(findings) == {}
    assert ("root volume" in notes(findings)) is tight


@pytest.mark.parametrize(("bound", "level"), [("", Level.NOTE), ("10", Level.BAD)])
def test_a_type_without_a_price_is_bad_where_prices_are_bounded(
    checked: Any, monkeypatch: pytest.MonkeyPatch, bound: str, level: Level
) -> None:
    async def ask(site: Site) -> None:
        if bound:
            site.append(f"max_eur_per_hour: {bound}\n")
        monkeypatch.setattr(
            scaleway_api, "type_json", lambda kind: {**type_json(kind), "hourly_price": None}
        )

    found = checked(ask)[PLACEMENT]
    assert (found.level, "names no price" in found.said) == (level, True)


@pytest.mark.parametrize(
    ("own", "where", "level", "said"),
    [
        ("scratch: 4TB", PLACEMENT, Level.BAD, "has at most 3TB of scratch; scratch is 4TB"),
        (
            "image: ubuntu_noble",
            f"image ubuntu_noble for {PLACEMENT}",
            Level.BAD,
            "ubuntu_jammy_gpu_os_12, ubuntu_noble_gpu_os_12, ubuntu_noble_gpu_os_13_nvidia would",
        ),
        (
            "volume: {size: 100GB}",
            f"root volume of {PLACEMENT}",
            Level.NOTE,
            "100GB is tight: Scaleway advises 125GB or more for its GPU images",
        ),
        (
            "max_price_per_hour: 2.5",
            PLACEMENT,
            Level.BAD,
            "2.87 €/h is above max_price_per_hour (2.50): none is launched there; raise that, or "
            "leave the placement out",
        ),
        ("max_price_per_hour: 2.87", PLACEMENT, Level.OK, "2.87 €/h, in stock"),
        ("image: ubuntu_noble_gpu_os_12", PLACEMENT, Level.OK, "2.87 €/h, in stock"),
    ],
)
def test_a_placement_is_checked_by_its_own_settings(
    checked: Any, own: str, where: str, level: Level, said: str
) -> None:
    found = checked(nothing, zone=f"{ZONE}, {own}")
    assert found[where].level is level
    assert found[where].said.endswith(said)
    others = {what for what in {**badly(found), **notes(found)} if what != where}
    assert others == set()


@pytest.mark.parametrize(
    ("setting", "level", "said"),
    [
        ("select: cheapest", Level.NOTE, "and with select: cheapest it comes last"),
        ("max_price_per_hour: 9", Level.BAD, "under max_price_per_hour none is launched there"),
    ],
)
def test_a_price_that_is_not_named_matters_to_what_hangs_on_it(
    checked: Any, monkeypatch: pytest.MonkeyPatch, setting: str, level: Level, said: str
) -> None:
    async def ask(site: Site) -> None:
        site.append(f"    {setting}\n")
        monkeypatch.setattr(
            scaleway_api, "type_json", lambda kind: {**type_json(kind), "hourly_price": None}
        )

    found = checked(ask)[PLACEMENT]
    assert found.level is level
    assert found.said.endswith(said)


def test_what_is_out_of_stock_now_is_said_with_the_price(checked: Any) -> None:
    async def empty(site: Site) -> None:
        site.scaleway.set_stock(Placement(TYPE, ZONE), Availability.SHORTAGE)

    found = checked(empty)[PLACEMENT]
    assert (found.level, found.said) == (Level.OK, "2.87 €/h, out of stock now")


# --- the security group


@pytest.mark.parametrize(
    ("zone", "inbound", "level"),
    [
        (ZONE, "drop", Level.OK),
        (ZONE, "accept", Level.NOTE),
        ("pl-waw-2", "drop", Level.BAD),
    ],
)
def test_the_security_group_is_looked_for_in_each_zone(
    checked: Any, zone: str, inbound: str, level: Level
) -> None:
    async def name_it(site: Site) -> None:
        group = site.scaleway.add_security_group(zone, "gpu", inbound=inbound)
        site.replace("project_id:", f"security_group_ids: {{fr-par-2: {group}}}, project_id:")

    assert checked(name_it)[GROUP].level is level


# --- the key


def allow(site: Site, rights: Collection[str]) -> None:
    site.keys[EMULATED_KEY] = frozenset(rights)


@pytest.mark.parametrize(
    ("lacking", "what", "named"),
    [
        ("instance:write", INSTANCES, ("create servers", "power them on", "write their user data")),
        ("block:write", BLOCK, ("change block volumes", "delete them")),
    ],
)
def test_a_permission_that_is_missing_is_named_with_what_gives_it(
    checked: Any, lacking: str, what: str, named: tuple[str, ...]
) -> None:
    async def take(site: Site) -> None:
        allow(site, FULL_ACCESS - {lacking})

    refused = badly(checked(take))
    assert list(refused) == [what]
    assert refused[what].startswith("may not ")
    assert f"IAM application {what} on the project" in refused[what]
    assert all(doing in refused[what] for doing in named)


def test_what_cannot_be_told_is_noted(checked: Any) -> None:
    async def take(site: Site) -> None:
        site.faults.add(FaultKind.ERROR, f"/block/.*/{NOTHING}", status=403)

    findings = checked(take)
    assert badly(findings) == {}
    assert notes(findings)[BLOCK] == (
        "whether it may change block volumes, delete them cannot be told without doing it; "
        "check --boot does"
    )


def test_a_key_that_may_only_read_servers_is_told_apart_from_a_wrong_one(checked: Any) -> None:
    async def take(site: Site) -> None:
        allow(site, {"instance:read"})

    findings = checked(take)
    assert set(badly(findings)) == {VOLUMES, INSTANCES}
    assert BLOCK in notes(findings)


def test_a_key_that_may_not_look_at_servers_is_asked_for_the_rest(checked: Any) -> None:
    async def take(site: Site) -> None:
        allow(site, {"block:read", "block:write"})

    findings = checked(take)
    assert set(badly(findings)) == {SERVERS, INSTANCES}
    assert findings[VOLUMES].level is findings[BLOCK].level is Level.OK


def test_a_key_that_scaleway_does_not_know_is_said_once(checked: Any) -> None:
    async def forget(site: Site) -> None:
        site.keys.clear()

    findings = checked(forget)
    assert list(badly(findings)) == ["servers"]
    assert "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY" in findings["servers"].said
    assert QUEUE_FOUND in findings, "ClearML was asked all the same"
    assert PLACEMENT not in findings


def test_a_key_with_the_fleets_permissions_alone_is_good(checked: Any) -> None:
    async def take(site: Site) -> None:
        allow(site, FLEET_ACCESS)

    findings = checked(take)
    assert badly(findings) == {}
    assert "OrganizationReadOnly" in notes(findings)[QUOTAS]
    assert "IAMReadOnly" in notes(findings)[LIFETIME]


@pytest.mark.parametrize(("days", "level"), [(13, Level.NOTE), (15, Level.OK), (None, Level.OK)])
def test_a_key_that_ends_soon_is_noted(checked: Any, days: int | None, level: Level) -> None:
    async def set_end(site: Site) -> None:
        if days is not None:
            site.scaleway.key_expires_at = site.clock.now() + timedelta(days=days)

    assert checked(set_end)[LIFETIME].level is level


def test_a_key_that_prefers_another_project_is_noted_where_a_bucket_is_used(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use_bucket(site: Site) -> None:
        site.use_bucket(monkeypatch)

    other = "99999999-9999-4999-8999-999999999999"
    found = checked(use_bucket, project=other)[LIFETIME]
    assert found.level is Level.NOTE
    assert "preferred project" in found.said


BUSY_MONDAY = (
    "defaults: {working_hours: {windows: "
    '[{days: mon, from: 08:00, to: "19:00", max_instances: 6}]}}'
)


@pytest.mark.parametrize(
    ("quota", "fleet", "level", "said"),
    [
        (4, "", Level.OK, "enough"),
        (3, "", Level.NOTE, f"allow only 3 {PLACEMENT} of 4"),
        (3, "max_instances: 3", Level.OK, "enough"),
        (0, "", Level.BAD, f"no {PLACEMENT} is allowed at all"),
        (5, BUSY_MONDAY, Level.NOTE, f"allow only 5 {PLACEMENT} of 6"),
    ],
)
def test_quotas_are_held_against_the_maxima(
    checked: Any, quota: int, fleet: str, level: Level, said: str
) -> None:
    async def set_quota(site: Site) -> None:
        site.scaleway.set_quota(TYPE, quota)
        site.append(f"{fleet}\n")

    found = checked(set_quota)[QUOTAS]
    assert found.level is level
    assert found.said.startswith(said)


# --- who does not answer


@pytest.mark.parametrize(
    ("match", "what"),
    [
        (rf"GET /instance/v1/zones/{ZONE}/servers\?", {"servers"}),
        ("GET /block/", {VOLUMES}),
        ("products/servers", {TYPES}),
        ("marketplace", {IMAGE}),
        ("iam/v1alpha1/quota", {QUOTAS}),
        ("POST /instance", {"permissions"}),
    ],
)
def test_one_that_does_not_answer_is_said_once(checked: Any, match: str, what: set[str]) -> None:
    async def fail(site: Site) -> None:
        site.faults.add(FaultKind.ERROR, match)

    found = badly(checked(fail))
    assert set(found) == what
    assert all(found.values()), "with a sentence"


@pytest.mark.parametrize(
    ("seconds", "scaleway", "clearml"),
    [
        (4, Level.OK, Level.OK),
        (-30, Level.NOTE, Level.NOTE),
        (90, Level.BAD, Level.NOTE),
    ],
)
def test_a_clock_that_is_off_is_worse_at_scaleway(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    scaleway: Level,
    clearml: Level,
) -> None:
    async def main() -> None:
        site = Site(tmp_path, checking, monkeypatch)

        def dated(service: str) -> httpx.AsyncBaseTransport:
            app = site.open_services.keywords[f"{service}_transport"]
            return Dated(app, lambda: site.clock.now() + timedelta(seconds=seconds))

        opened = functools.partial(
            wiring.open_services,
            clearml_transport=dated("clearml"),
            scaleway_transport=dated("scaleway"),
        )
        monkeypatch.setattr(checking, "open_services", opened)
        findings = await check_online(site.setup, site.clock)
        clocks = {f.group.split()[0]: f.level for f in findings if f.what == "clock"}
        assert clocks == {"Scaleway": scaleway, "ClearML": clearml}

    run_virtual(main())


class Dated(httpx.AsyncBaseTransport):
    """Replies say what time it is."""

    def __init__(self, app: httpx.AsyncBaseTransport, now: Callable[[], Any]) -> None:
        self.app, self.now = app, now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reply = await self.app.handle_async_request(request)
        reply.headers["Date"] = f"{self.now():%a, %d %b %Y %H:%M:%S GMT}"
        return reply


# --- the store


class Deaf(InMemoryBucket):
    """A service that takes every write."""

    async def put(self, content: bytes, replaces: str | None) -> str:
        return self.write(content)


class Closed(InMemoryBucket):
    """A service that lets nobody in."""

    async def get(self) -> Blob | None:
        raise StoreError("s3://my-bucket/x: cannot be read (HTTP 403)")


CLOSED = "s3://my-bucket/x: cannot be read (HTTP 403)"


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        (InMemoryBucket, [None, None]),
        (Deaf, [None, "a write that named a wrong version was not refused: two daemons could"]),
        (Closed, [CLOSED, CLOSED]),
    ],
)
def test_the_bucket_is_read_and_its_conditions_are_tried(
    checked: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[InMemoryBucket],
    errors: list[str | None],
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
    for what, error in zip(("memory", "conditional writes"), errors, strict=True):
        found = findings[what]
        assert found.group == "Store: bucket my-bucket at https://s3.fr-par.scw.cloud"
        assert (found.level is Level.BAD) is (error is not None)
        assert found.said.startswith(error or "")
    memory = "gpu-autoscaler/test.json"
    assert asked == [memory, f"{memory}.probe"], "the memory itself is never written"


def test_the_memory_of_a_newer_daemon_is_a_finding(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use_bucket(site: Site) -> None:
        newer = {"version": SCHEMA_VERSION + 1, "lease": "nobody here knows"}
        site.use_bucket(monkeypatch).write(json.dumps(newer).encode())

    assert any("newer version" in error for error in badly(checked(use_bucket)).values())


# --- how it is told


FOUND = [
    Finding("One", "a", good("fine")),
    Finding("One", "b", bad("is [missing], " + "so make it " * 8)),
    Finding("Two", "c", note("soon")),
    Finding("Two", "d"),
]
SHOWN = """\
One
  ok    a: fine
  bad   b: is [missing], so make it so make it so make it so make it so make it
        so make it so make it so make it
Two
  note  c: soon
  ok    d
2 ok, 1 note, 1 bad
"""


def test_what_was_found_is_told_in_groups_that_fit_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    show(FOUND, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.rstrip() for line in lines] == SHOWN.splitlines()
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(("findings", "ok"), [(FOUND, False), (FOUND[2:], True)])
def test_a_note_alone_is_no_failure(findings: list[Finding], ok: bool) -> None:
    told = json.loads(as_json(findings))
    assert told["ok"] is ok
    assert told["findings"][-1] == {"group": "Two", "what": "d", "level": "ok", "said": None}


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
        assert site.said.startswith("{" if json_only else "Configuration")

    run_virtual(main())
