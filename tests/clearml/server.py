"""A ClearML server that says what it is told to, in the shape of the real one's answers."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest
import respx

from gpu_autoscaler.clearml.api import ClearmlApi, Credentials
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual

T = TypeVar("T")

HOST = "https://clearml.test"
KEY = "ACCESS0KEY1OF2ME"
SECRET = "s3cret-which-nobody-may-see"
TOKEN = "opaque-token-0"
T0 = "2026-09-07T07:00:00.123000+00:00"
T1 = "2026-09-07T07:30:00.456000+00:00"

Step = httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]


def answer(**data: Any) -> httpx.Response:
    return httpx.Response(200, json={"meta": _meta(200, 0, "OK"), "data": data})


def refusal(code: int, subcode: int, message: str) -> httpx.Response:
    return httpx.Response(code, json={"meta": _meta(code, subcode, message), "data": {}})


def _meta(code: int, subcode: int, message: str) -> dict[str, Any]:
    return {
        "id": "f3bdf3fd",
        "endpoint": {"name": "a.b", "requested_version": "2.34", "actual_version": "2.4"},
        "result_code": code,
        "result_subcode": subcode,
        "result_msg": message,
        "error_stack": None,
        "error_data": {},
    }


def jwt(**claims: Any) -> str:
    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2lnbmF0dXJl"


class Server:
    """Answers each method by a script, the last step of it for ever, and keeps what was asked."""

    def __init__(self) -> None:
        self.router = respx.Router(base_url=HOST, assert_all_called=False)
        self.on("auth.login", answer(token=TOKEN))

    def on(self, method: str, *steps: Step) -> None:
        script = list(steps)

        async def reply(request: httpx.Request) -> httpx.Response:
            step = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(step, Exception):
                raise step
            if not isinstance(step, httpx.Response):
                return await step(request)
            headers = {k: v for k, v in step.headers.items() if k != "transfer-encoding"}
            return httpx.Response(step.status_code, headers=headers, content=step.content)

        self.router.post(f"/{method}").mock(side_effect=reply)

    def requests(self, method: str) -> list[httpx.Request]:
        return [call.request for call in self.router.calls if call.request.url.path == f"/{method}"]

    def bodies(self, method: str) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests(method)]

    @property
    def asked(self) -> list[str]:
        """Every method that was called, in order."""
        return [call.request.url.path.lstrip("/") for call in self.router.calls]

    def api(self, clock: Clock, call_deadline: float = 10.0) -> ClearmlApi:
        transport = httpx.MockTransport(self.router.async_handler)
        credentials = Credentials(KEY, SECRET)
        return ClearmlApi(
            HOST, credentials, clock, transport=transport, call_deadline=call_deadline
        )


NOBODY = answer(workers=[])
EXPIRED = refusal(401, 30, "Invalid token (invalid jwt token): reason=Signature has expired")


def play(server: Server, story: Callable[[ClearmlApi, LoopClock], Awaitable[T]]) -> tuple[T, float]:
    """Run a story in virtual time; returns what it returned, and how many seconds it took."""

    async def told() -> tuple[T, float]:
        clock = LoopClock()
        begun = clock.now()
        async with server.api(clock) as api:
            return await story(api, clock), (clock.now() - begun).total_seconds()

    return run_virtual(told())


async def workers(api: ClearmlApi, _: LoopClock) -> Any:
    return await api.workers()


def failure(server: Server) -> tuple[ApiError, float]:
    """How `workers` fails, and after how many seconds."""

    async def story(api: ClearmlApi, _: LoopClock) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await api.workers()
        return caught.value

    return play(server, story)
