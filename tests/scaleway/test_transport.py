"""Deadlines, repetitions, whole listings, and a secret that stays one."""

from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
import respx

from gpu_autoscaler.domain.calls import OnCall, nobody
from gpu_autoscaler.domain.errors import NotFound, Transient
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.transport import PAGE_SIZE, Transport
from tests.scaleway.cloud import API, FLEET, NOT_FOUND, PROJECT, SECRET, refuse

PATH = "/instance/v1/zones/fr-par-2/things"


def talk(
    answer: Callable[[httpx.Request], Any],
    scene: Callable[[Transport], Coroutine[Any, Any, Any]],
    on_call: OnCall = nobody,
) -> tuple[Any, respx.models.CallList]:
    """Run a scene against a server that answers by this function: result and calls."""

    async def main() -> Any:
        transport = Transport(
            SECRET, LoopClock(), api_url=API, transport=None, call_deadline=15, on_call=on_call
        )
        try:
            return await scene(transport)
        finally:
            await transport.aclose()

    with respx.mock as router:
        route = router.route(url__startswith=API).mock(side_effect=answer)
        return run_virtual(main()), route.calls


def of(*answers: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    left = list(answers)

    def answer(_request: httpx.Request) -> httpx.Response:
        chosen = left.pop(0)
        if isinstance(chosen, Exception):
            raise chosen
        return chosen

    return answer


async def hang(_request: httpx.Request) -> httpx.Response:
    await LoopClock().sleep(3600)
    return httpx.Response(200, json={})


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(502, text="<html>Bad Gateway</html>"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("late"),
        refuse(409),
    ],
)
def test_a_read_is_tried_again(trouble: httpx.Response | Exception) -> None:
    good = httpx.Response(200, json={"a": 1})
    body, calls = talk(of(trouble, trouble, good), lambda t: t.get(PATH))

    assert body == {"a": 1}
    assert len(calls) == 3


def test_a_read_gives_up_after_three_attempts() -> None:
    with pytest.raises(Transient, match=r"GET /instance/v1/zones/fr-par-2/things: .*refused"):
        talk(of(*[httpx.ConnectError("refused")] * 3), lambda t: t.get(PATH))


def test_a_refused_read_is_not_tried_again() -> None:
    with pytest.raises(NotFound):
        talk(of(refuse(404, NOT_FOUND)), lambda t: t.get(PATH))


def test_a_change_is_never_sent_twice() -> None:
    with pytest.raises(Transient):
        talk(of(httpx.Response(502)), lambda t: t.send("POST", PATH, json={}))


@pytest.mark.parametrize("text", ["", "<html>", '{"servers": [', "[]", "null"])
def test_a_broken_success_is_transient(text: str) -> None:
    with pytest.raises(Transient, match="200 with an unreadable body"):
        talk(of(*[httpx.Response(200, text=text)] * 3), lambda t: t.get(PATH))


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_a_call_that_hangs_ends_by_its_deadline(method: str) -> None:
    async def scene(transport: Transport) -> float:
        clock = LoopClock()
        start = clock.now()
        with pytest.raises(Transient, match="no answer within 15 s"):
            await (transport.get(PATH) if method == "GET" else transport.send(method, PATH))
        return (clock.now() - start).total_seconds()

    assert talk(hang, scene)[0] == 15


def paged(
    names: list[str], *, cap: int = PAGE_SIZE, total: str | None = "header", listed: type = list
) -> Callable[[httpx.Request], httpx.Response]:
    """A listing that gives `cap` entries a page and tells its total in one of three ways."""

    def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params
        size = min(int(query["per_page"]), cap)
        start = (int(query["page"]) - 1) * size
        page = names[start : start + size]
        things = [{"id": name} for name in page] if listed is list else {n: {} for n in page}
        headers = {"X-Total-Count": str(len(names))} if total == "header" else {}
        count = {"total_count": len(names)} if total == "body" else {}
        return httpx.Response(200, json={"things": things, **count}, headers=headers)

    return answer


@pytest.mark.parametrize("listed", [list, dict])
@pytest.mark.parametrize("total", ["header", "body", None])
@pytest.mark.parametrize("count", [0, 1, 100, 135, 200])
def test_a_listing_is_read_to_its_end(count: int, total: str | None, listed: type) -> None:
    names = [f"id-{n}" for n in range(count)]
    found, calls = talk(
        paged(names, total=total, listed=listed), lambda t: t.listing(PATH, "things", {})
    )

    assert list(found) == names
    assert len(calls) <= count // PAGE_SIZE + 1


def test_a_listing_that_gives_less_than_asked_is_read_to_its_end() -> None:
    names = [f"id-{n}" for n in range(135)]
    found, calls = talk(paged(names, cap=50), lambda t: t.listing(PATH, "things", {}))

    assert list(found) == names
    assert len(calls) == 3


def test_an_entry_that_moved_between_pages_counts_once() -> None:
    first = {"things": [{"id": f"id-{n}"} for n in range(100)], "total_count": 101}
    second = {"things": [{"id": "id-99"}, {"id": "id-100"}], "total_count": 101}
    answers = of(httpx.Response(200, json=first), httpx.Response(200, json=second))
    found, _ = talk(answers, lambda t: t.listing(PATH, "things", {}))

    assert len(found) == 101


def test_pages_that_do_not_add_up_are_no_listing() -> None:
    page = httpx.Response(200, json={"things": [{"id": "a"}], "total_count": 2})
    with pytest.raises(Transient, match="1 of 2 entries"):
        talk(of(page, page), lambda t: t.listing(PATH, "things", {}))


@pytest.mark.parametrize("things", [None, [None], [{}], [{"id": []}], 3])
def test_an_unreadable_entry_fails_the_whole_listing(things: Any) -> None:
    with pytest.raises(Transient, match="unreadable"):
        talk(
            of(httpx.Response(200, json={"things": things})),
            lambda t: t.listing(PATH, "things", {}),
        )


def test_the_secret_is_sent_and_never_shown() -> None:
    quoting = {"type": "denied_authentication", "message": f"token {SECRET} is unknown"}

    async def scene(transport: Transport) -> str:
        try:
            await transport.send("PATCH", PATH, json={})
        except Exception as error:
            return f"{error} {error!r} {error.__cause__!r} {transport!r}"
        return ""

    shown, calls = talk(of(refuse(401, quoting)), scene)
    assert "401 denied_authentication" in shown
    assert SECRET not in shown
    assert calls[0].request.headers["X-Auth-Token"] == SECRET


def test_the_secret_is_not_in_the_repr_of_the_face() -> None:
    async def main() -> str:
        async with ScalewayApi(SECRET, PROJECT, FLEET, LoopClock()) as api:
            return repr(api) + repr(vars(api))

    assert SECRET not in run_virtual(main())


def test_a_secret_that_is_no_header_is_not_quoted() -> None:
    # what h11 says when a key file ended with a newline
    error = httpx.LocalProtocolError(f"Illegal header value b'{SECRET}\\n'")
    with pytest.raises(Transient, match="could not be written") as caught:
        talk(of(error, error, error), lambda t: t.get(PATH))
    assert SECRET not in str(caught.value)


class Heard(list[tuple[str, str, float]]):
    """What an observer of requests was told."""

    def __call__(self, api: str, outcome: str, seconds: float) -> None:
        self.append((api, outcome, round(seconds, 1)))


def test_each_request_is_told_to_the_observer() -> None:
    heard, good = Heard(), httpx.Response(200, json={"a": 1})
    talk(of(httpx.Response(502), httpx.ConnectError("no"), good), lambda t: t.get(PATH), heard)
    assert [(api, outcome) for api, outcome, _ in heard] == [
        ("scaleway", "transient"),
        ("scaleway", "transient"),
        ("scaleway", "ok"),
    ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (of(refuse(404, NOT_FOUND)), ("scaleway", "not_found", 0.0)),
        (hang, ("scaleway", "transient", 15.0)),
    ],
)
def test_an_error_is_told_by_its_kind(
    answer: Callable[[httpx.Request], Any], told: tuple[str, str, float]
) -> None:
    heard = Heard()
    with pytest.raises((NotFound, Transient)):
        talk(answer, lambda t: t.send("PATCH", PATH, json={}), heard)
    assert heard == [told]
