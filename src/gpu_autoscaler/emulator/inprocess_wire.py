"""The shipped adapters' way to the services without a network: over a `Line` to the models.

What is above stays the shipped code: sequences of calls, repeated reads, deadlines, whole
listings, what a refusal means. Requests reach the emulator's own endpoint functions; only frequent
reads (`look`) take what they want from a model by themselves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from json import dumps
from typing import Any, TypeVar

import httpx
from starlette.datastructures import QueryParams
from starlette.routing import compile_path

from gpu_autoscaler.clearml.transport import Answer, Credentials, Session
from gpu_autoscaler.clearml.wire import Reply
from gpu_autoscaler.domain.errors import ApiError, Transient
from gpu_autoscaler.emulator import clearml_endpoints as clearml
from gpu_autoscaler.emulator import scaleway_api as scaleway
from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.clearml_http import ALL_ENDPOINTS
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_wire import RefusedError
from gpu_autoscaler.emulator.clearml_workers import LOOPBACK
from gpu_autoscaler.emulator.line import Line
from gpu_autoscaler.emulator.scaleway_errors import ScalewayError
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.scaleway.api import DEFAULT_CALL_DEADLINE
from gpu_autoscaler.scaleway.refusals import classify
from gpu_autoscaler.scaleway.transport import (
    READ_ATTEMPTS,
    READ_PAUSE,
    Params,
    Transport,
    persist,
)

T = TypeVar("T")
D = TypeVar("D")
Attempt = Callable[[], Awaitable[T]]

NOWHERE = "http://in-process"
NOBODY = Credentials("", "")


class InProcessSession(Session):
    """The ClearML adapter's session, as the model's first user."""

    def __init__(self, model: ClearmlModel, line: Line) -> None:
        super().__init__(NOWHERE, NOBODY, model.timeline.clock, transport=_NoNetwork())
        self._model, self._line = model, line

    async def look(self, method: str, take_effect: Callable[[], T]) -> T:
        """A frequent read: `take_effect` answers, repeated and cut as any other read."""

        async def attempt() -> T:
            return await self._carried(method, take_effect)

        return await _cheap_at_first(attempt, self._persist)

    async def call(self, method: str, body: Mapping[str, Any], shape: type[Reply[D]]) -> D:
        def take_effect() -> D:
            reply = {"meta": {"result_code": httpx.codes.OK}, "data": self._data(method, body)}
            # strictness is for JSON: it would want tuples and datetimes here
            return shape.model_validate(reply, strict=False).data

        return await self._carried(method, take_effect)

    async def _carried(self, method: str, take_effect: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._deadline):
                return await self._line.carry(method, take_effect)
        except TimeoutError:
            raise Transient(
                f"{self._name(method)} did not answer within {self._deadline:g} s"
            ) from None

    def _data(self, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        model = self._model
        model.timeline.advance()
        _, endpoint = ALL_ENDPOINTS[method]
        try:
            return endpoint(clearml.Ask(model, model.user, LOOPBACK, dict(body)))
        except RefusedError as refusal:
            meta = {
                "result_code": refusal.status,
                "result_subcode": refusal.subcode,
                "result_msg": refusal.message,
            }
            answer = Answer(refusal.status, dumps({"meta": meta}).encode(), None)
            raise self._classify(method, answer) from None


@dataclass(frozen=True, slots=True)
class _Response:
    """As much of an httpx response as is read of one."""

    status_code: int
    headers: Mapping[str, str]
    document: Any

    @property
    def text(self) -> str:
        return str(self.document, errors="replace")

    def json(self) -> Any:
        return self.document


class InProcessTransport(Transport):
    """The Scaleway adapter's transport; every key opens everything."""

    def __init__(self, model: ScalewayModel, line: Line) -> None:
        super().__init__(
            "",
            model.timeline.clock,
            api_url=NOWHERE,
            transport=_NoNetwork(),
            call_deadline=DEFAULT_CALL_DEADLINE,
        )
        self._line = line
        self._endpoints = [
            (method, compile_path(path)[0], handler)
            for method, path, handler in scaleway.ScalewayApi(model).endpoints()
        ]

    async def look(self, path: str, take_effect: Callable[[], T]) -> T:
        """A frequent read: `take_effect` answers, repeated and cut as any other read."""
        call = f"GET {path}"

        async def attempt() -> T:
            return await self._line.carry(call, take_effect)

        return await self._within_deadline(call, _cheap_at_first(attempt, self._persist))

    async def _persist(self, attempt: Attempt[T]) -> T:
        return await persist(
            self._clock, attempt, attempts=READ_ATTEMPTS, pause=READ_PAUSE, errors=(Transient,)
        )

    async def _once(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = None,
        content: bytes | None = None,
    ) -> Any:
        call = f"{method} {path}"

        def take_effect() -> _Response:
            try:
                reply = self._reply(method, path, params or {}, json, content or b"")
            except ScalewayError as refusal:
                text, confidential = dumps(refusal.body), content is not None
                raise classify(call, refusal.status, text, confidential=confidential) from None
            return _Response(reply.status, reply.headers, reply.content)

        return await self._line.carry(call, take_effect)

    def _reply(
        self, method: str, path: str, params: Params, document: Any, body: bytes
    ) -> scaleway.Reply:
        for verb, pattern, handler in self._endpoints:
            if verb == method and (found := pattern.match(path)):
                query = QueryParams([pair for key in params for pair in _pairs(key, params[key])])
                return handler(scaleway.Ask(path, found.groupdict(), query, body, document))
        raise errors.not_found("path", path)


def _pairs(key: str, value: Any) -> list[tuple[str, str]]:
    """One parameter as a query spells it: a list is a parameter given several times."""
    values = value if isinstance(value, list | tuple) else [value]
    return [(key, str(each)) for each in values]


async def _cheap_at_first(attempt: Attempt[T], persist: Callable[[Attempt[T]], Awaitable[T]]) -> T:
    """`persist(attempt)`, whose machinery is started only once an attempt has failed.

    It costs 30 µs, as much as the answer to any frequent read.
    """
    try:
        return await attempt()
    except ApiError as error:
        failed = [error]

    async def again() -> T:
        if failed:
            raise failed.pop()
        return await attempt()

    return await persist(again)


class _NoNetwork(httpx.AsyncBaseTransport):
    """Keeps httpx from loading certificates for connections that nobody will make."""
