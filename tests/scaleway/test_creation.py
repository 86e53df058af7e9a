"""One instance or nothing at all."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from gpu_autoscaler.domain.errors import (
    ApiError,
    OutOfStock,
    QuotaExceeded,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
)
from gpu_autoscaler.domain.model import MANAGED_BY_TAG, PROVISIONING_TAG
from gpu_autoscaler.runtime.clock import LoopClock
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.creation import CLOSING_PATIENCE
from tests.scaleway.cloud import (
    FLEET,
    NOT_FOUND,
    ORDER,
    OUT_OF_STOCK,
    PROJECT,
    QUEUE,
    TAGS,
    TRANSIENT,
    ZONE,
    Cloud,
    Fault,
    play,
    refuse,
    server_json,
    volume_json,
)

USER_DATA = b'#!/bin/bash\necho "\xc3\xa9 %s \\n" \x00\xff\r\n'
PASSWORD = "hunter2"

BIRTH = [
    "GET images",
    "POST servers",
    "PATCH volume",
    "PATCH user_data",
    "POST poweron",
    "GET server",
    "PATCH server",
]


async def create(api: ScalewayApi) -> None:
    await api.create(ORDER, USER_DATA)


def test_the_steps_of_a_birth_and_what_each_of_them_sends() -> None:
    cloud = Cloud()
    play(cloud, create)

    assert cloud.steps == BIRTH
    assert cloud.body("POST servers") == {
        "name": ORDER.name,
        "commercial_type": QUEUE,
        "image": "image-1",
        "project": PROJECT,
        "protected": False,
        "tags": [*TAGS, PROVISIONING_TAG],
        "dynamic_ip_required": True,
        "boot_type": "local",
        "volumes": {
            "0": {"boot": True, "volume_type": "sbs_volume", "size": 200_000_000_000},
        },
    }
    assert cloud.body("PATCH volume") == {
        "name": ORDER.name,
        "tags": [*FLEET.of_volume(QUEUE)],
        "perf_iops": 15000,
    }
    script = cloud.requests[BIRTH.index("PATCH user_data")]
    assert script.url.path == f"/instance/v1/zones/{ZONE}/servers/s1/user_data/cloud-init"
    assert script.content == USER_DATA
    assert script.headers["Content-Type"] == "text/plain"
    assert cloud.body("PATCH server") == {"tags": sorted(TAGS)}
    assert cloud.servers["s1"]["state"] == "starting"


def test_scratch_security_group_and_usual_iops() -> None:
    cloud = Cloud()
    order = replace(
        ORDER, scratch_bytes=3_000_000_000_000, security_group_id="sg-1", volume_iops=5000
    )
    play(cloud, lambda api: api.create(order, USER_DATA))

    body = cloud.body("POST servers")
    assert body["volumes"]["1"] == {
        "name": f"{ORDER.name}-scratch",
        "volume_type": "scratch",
        "size": 3_000_000_000_000,
    }
    assert body["security_group"] == "sg-1"
    assert "perf_iops" not in cloud.body("PATCH volume")


REJECTION = refuse(400, {"type": "invalid_arguments", "message": "invalid argument(s)"})


@pytest.mark.parametrize("step", ["PATCH volume", "PATCH user_data", "POST poweron"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (REJECTION, Rejected),
        (refuse(403, {"type": "permissions_denied", "message": "no"}), Unauthorized),
        (refuse(412, OUT_OF_STOCK), OutOfStock),
    ],
)
def test_a_failure_at_any_step_leaves_nothing_behind(
    step: str, answer: httpx.Response, expected: type[ApiError]
) -> None:
    cloud = Cloud()
    cloud.fail(step, answer)

    with pytest.raises(expected, match=step.split(maxsplit=1)[0]):
        play(cloud, create)

    assert step in cloud.steps
    assert not cloud.servers
    assert not cloud.volumes


def test_the_volume_is_tagged_before_its_server_is_removed() -> None:
    cloud = Cloud()
    cloud.fail("PATCH volume", REJECTION)

    with pytest.raises(Rejected):
        play(cloud, create)

    changes = cloud.changes()
    assert changes == [
        "POST servers",
        "PATCH volume",
        "PATCH volume",
        "DELETE server",
        "DELETE volume",
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refuse(412, OUT_OF_STOCK), OutOfStock),
        (refuse(403, {"type": "quotas_exceeded", "message": "quota(s) exceeded"}), QuotaExceeded),
        (refuse(429), RateLimited),
        (REJECTION, Rejected),
    ],
)
def test_a_refused_birth_needs_no_clean_up(
    answer: httpx.Response, expected: type[ApiError]
) -> None:
    cloud = Cloud()
    cloud.fail("POST servers", answer)

    with pytest.raises(expected):
        play(cloud, create)

    assert cloud.steps == ["GET images", "POST servers"]


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ReadError("reset"),
        httpx.Response(502, text="<html>Bad Gateway</html>"),
        httpx.Response(201, text='{"server": {"id": "s1", "na'),
    ],
)
def test_a_server_whose_creation_got_no_answer_is_found_by_name_and_removed(
    lost: httpx.Response | Exception,
) -> None:
    sibling = server_json("s9", name="h100-1-80g-ffffff", tags=[*TAGS, PROVISIONING_TAG])
    cloud = Cloud(servers={"s9": sibling}, volumes={"v9": volume_json("v9", "s9")})
    cloud.fail("POST servers", lost, done=True)

    with pytest.raises(Transient):
        play(cloud, create)

    assert list(cloud.servers) == ["s9"]
    assert list(cloud.volumes) == ["v9"]
    assert "DELETE server" in cloud.steps


def test_a_creation_that_times_out_is_removed_too() -> None:
    cloud = Cloud()
    cloud.faults["POST servers"] = [Fault(done=True, delay=60)]

    with pytest.raises(Transient, match="no answer within 15 s"):
        play(cloud, create)

    assert not cloud.servers
    assert not cloud.volumes


@pytest.mark.parametrize("step", ["PATCH volume", "PATCH user_data", "POST poweron"])
def test_a_passing_refusal_is_waited_out(step: str) -> None:
    cloud = Cloud()
    cloud.fail(step, refuse(409, TRANSIENT), refuse(429))

    play(cloud, create)

    assert cloud.steps.count(step) == 3
    assert cloud.servers["s1"]["tags"] == sorted(TAGS)


def test_a_volume_not_found_right_after_birth_is_waited_for() -> None:
    cloud = Cloud()
    cloud.fail("PATCH volume", refuse(404, NOT_FOUND))

    play(cloud, create)

    assert MANAGED_BY_TAG in cloud.volumes["v1"]["tags"]


def test_a_power_on_whose_answer_was_lost_counts_when_the_server_starts() -> None:
    cloud = Cloud()
    cloud.fail("POST poweron", httpx.ReadTimeout("late"), done=True)

    play(cloud, create)

    assert cloud.steps.count("POST poweron") == 1
    assert cloud.servers["s1"]["tags"] == sorted(TAGS)


def test_a_tag_that_a_person_sets_during_a_birth_survives_its_last_step() -> None:
    cloud = Cloud()
    cloud.faults["POST poweron"] = [Fault(done=True, delay=10)]

    async def scene(api: ScalewayApi) -> None:
        birth = asyncio.ensure_future(create(api))
        await LoopClock().sleep(5)
        cloud.servers["s1"]["tags"].append("keep")
        await birth

    play(cloud, scene)

    assert cloud.servers["s1"]["tags"] == sorted([*TAGS, "keep"])


@pytest.mark.parametrize("step", BIRTH[5:])
def test_a_good_machine_is_kept_when_only_its_last_tag_cannot_be_taken_away(step: str) -> None:
    cloud = Cloud()
    cloud.fail(step, *[httpx.Response(500)] * 20)

    play(cloud, create)

    assert cloud.servers["s1"]["state"] == "starting"
    assert PROVISIONING_TAG in cloud.servers["s1"]["tags"]


@pytest.mark.parametrize("step", BIRTH[1:5])
@pytest.mark.parametrize("done", [False, True])
def test_a_birth_cut_short_by_its_caller_leaves_nothing_that_is_off(step: str, done: bool) -> None:
    cloud = Cloud()
    cloud.faults[step] = [Fault(REJECTION, done=done, delay=10)]

    async def impatient(api: ScalewayApi) -> None:
        async with asyncio.timeout(5):
            await create(api)

    with pytest.raises(TimeoutError):
        play(cloud, impatient)

    assert step in cloud.steps
    if step == "POST poweron" and done:
        # its agent may have a task before a removal is through: the loop decides about it
        assert PROVISIONING_TAG in cloud.servers["s1"]["tags"]
        assert cloud.volumes
    else:
        assert not cloud.servers
        assert not cloud.volumes


def test_a_clean_up_goes_on_when_its_caller_is_cancelled_again() -> None:
    cloud = Cloud()
    cloud.faults["PATCH user_data"] = [Fault(REJECTION, delay=5)]
    cloud.faults["DELETE server"] = [Fault(done=True, delay=3)]

    async def twice_cancelled(api: ScalewayApi) -> None:
        birth = asyncio.ensure_future(create(api))
        for _ in range(2):
            await LoopClock().sleep(1)
            birth.cancel()
        with pytest.raises(asyncio.CancelledError):
            await birth
        assert cloud.volumes  # the clean-up has not come that far: closing waits for it

    play(cloud, twice_cancelled)

    assert not cloud.servers
    assert not cloud.volumes


def test_closing_does_not_wait_for_a_clean_up_that_hangs() -> None:
    cloud = Cloud()
    cloud.faults["PATCH user_data"] = [Fault(REJECTION, delay=5)]
    cloud.faults["DELETE server"] = [Fault(delay=100)]
    moments: list[float] = []

    async def cut_off(api: ScalewayApi) -> None:
        birth = asyncio.ensure_future(create(api))
        for _ in range(2):
            await LoopClock().sleep(1)
            birth.cancel()
        with pytest.raises(asyncio.CancelledError):
            await birth
        moments.append(asyncio.get_running_loop().time())
        await api.aclose()
        moments.append(asyncio.get_running_loop().time())

    play(cloud, cut_off)

    assert moments[1] - moments[0] <= CLOSING_PATIENCE
    [server] = cloud.servers.values()
    assert PROVISIONING_TAG in server["tags"], "the next start recognises it"


@pytest.mark.parametrize("step", BIRTH[5:])
def test_a_cancellation_after_power_on_keeps_the_good_machine(step: str) -> None:
    cloud = Cloud()
    cloud.faults[step] = [Fault(REJECTION, delay=10)]

    async def impatient(api: ScalewayApi) -> None:
        async with asyncio.timeout(5):
            await create(api)

    with pytest.raises(TimeoutError):
        play(cloud, impatient)

    assert cloud.servers["s1"]["state"] == "starting"


def test_a_failed_clean_up_is_told_with_the_first_error() -> None:
    cloud = Cloud()
    cloud.fail("POST poweron", refuse(412, OUT_OF_STOCK))
    cloud.fail("DELETE server", refuse(403, {"type": "permissions_denied", "message": "no"}))

    with pytest.raises(OutOfStock, match=r"out of stock.*cleaning up failed, h100.*DELETE"):
        play(cloud, create)


def test_user_data_is_never_quoted_in_an_error() -> None:
    cloud = Cloud()
    quoting = {"type": "invalid_arguments", "message": f"bad value: PASSWORD={PASSWORD}"}
    cloud.fail("PATCH user_data", refuse(400, quoting))

    with pytest.raises(Rejected) as caught:
        play(cloud, create)

    assert "user_data" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_server_that_nobody_would_see_is_not_made() -> None:
    cloud = Cloud()
    stray = replace(ORDER, tags=("queue=x",))

    with pytest.raises(Rejected, match="fleet 'research'"):
        play(cloud, lambda api: api.create(stray, USER_DATA))

    assert cloud.changes() == []
