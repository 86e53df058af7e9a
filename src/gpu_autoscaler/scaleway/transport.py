"""HTTP to Scaleway: authentication, deadlines, classified errors, retried reads, whole listings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from gpu_autoscaler.domain.calls import Call, OnCall, nobody
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError, Transient
from gpu_autoscaler.scaleway.refusals import classify

T = TypeVar("T")
Params = Mapping[str, str | int | Sequence[str]]

READ_ATTEMPTS = 3
READ_PAUSE = 0.5
"""Seconds before the first repetition of a read; doubled for each further one."""

API = "scaleway"
"""Under this name its requests are counted."""

PAGE_SIZE = 100
"""The most that any listing gives at once; the default of 50 would only mean more requests."""


async def persist(
    clock: Clock,
    call: Callable[[], Awaitable[T]],
    *,
    attempts: int,
    pause: float,
    errors: tuple[type[ApiError], ...],
) -> T:
    """Repeat an idempotent call on these errors, after `pause`, 2 x `pause`, … seconds."""
    retrying = AsyncRetrying(
        sleep=clock.sleep,
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=pause),
        retry=retry_if_exception_type(errors),
        reraise=True,
    )
    return await retrying(call)


class Transport:
    """One connection pool to one Scaleway API, with one secret key."""

    def __init__(
        self,
        secret_key: str,
        clock: Clock,
        *,
        api_url: str,
        transport: httpx.AsyncBaseTransport | None,
        call_deadline: float,
        on_call: OnCall = nobody,
    ) -> None:
        self._clock, self._on_call = clock, on_call
        self.skew: timedelta | None = None
        """How far Scaleway's clock is ahead of ours, give or take a second, by its last good
        answer; None until one told."""
        self._secret = secret_key
        self._call_deadline = call_deadline
        self._client = httpx.AsyncClient(
            base_url=api_url,
            transport=transport,
            timeout=call_deadline,
            headers={"X-Auth-Token": secret_key, "User-Agent": "clearml-gpu-autoscaler"},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """Read a JSON object; transient failures are tried again within one call's deadline."""
        return _json_object(f"GET {path}", await self._read(path, params))

    async def text(self, path: str) -> str:
        """Read what is no JSON; otherwise as `get`."""
        return (await self._read(path, None)).text

    async def send(
        self, method: str, path: str, *, json: Any = None, content: bytes | None = None
    ) -> httpx.Response:
        """Send a change, once: whether a lost one happened is for the caller to find out.

        `content` goes out untouched as text/plain and is never quoted in an error.
        """
        return await self._within_deadline(
            f"{method} {path}", self._once(method, path, json=json, content=content)
        )

    async def post(self, path: str, json: Any) -> dict[str, Any]:
        """Send a POST, once, and return the JSON object it answers."""
        return _json_object(f"POST {path}", await self.send("POST", path, json=json))

    async def listing(
        self, path: str, key: str, params: Params, *, size_param: str = "per_page"
    ) -> dict[str, Any]:
        """All pages of a listing, by id (or by the key that the API itself lists by).

        Raises Transient when the pages do not add up to what the API says there is: pages
        are counted by number, so entries move while one reads.
        """
        found: dict[str, Any] = {}
        page = 0
        while True:
            page += 1
            reply = await self._read(path, {**params, size_param: PAGE_SIZE, "page": page})
            body = _json_object(f"GET {path}", reply)
            entries = _by_id(f"GET {path}", body.get(key))
            news = entries.keys() - found.keys()
            found |= entries
            total = _total(reply, body)
            if total is None and len(entries) < PAGE_SIZE:
                return found
            if total is not None and len(found) >= total:
                return found
            if not news:
                raise Transient(f"GET {path}: {len(found)} of {total} entries in {page} pages")

    async def _read(self, path: str, params: Params | None) -> httpx.Response:
        async def once() -> httpx.Response:
            return await self._once("GET", path, params=params)

        repeated = persist(
            self._clock, once, attempts=READ_ATTEMPTS, pause=READ_PAUSE, errors=(Transient,)
        )
        return await self._within_deadline(f"GET {path}", repeated)

    async def _within_deadline(self, call: str, reply: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._call_deadline):
                return await reply
        except TimeoutError:
            raise Transient(f"{call}: no answer within {self._call_deadline:g} s") from None

    async def _once(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """One request; all that another way to Scaleway has to replace."""
        with Call(API, self._clock, self._on_call):
            return await self._answer(method, path, params=params, json=json, content=content)

    async def _answer(
        self, method: str, path: str, *, params: Params | None, json: Any, content: bytes | None
    ) -> httpx.Response:
        headers = {"Content-Type": "text/plain"} if content is not None else None
        call = f"{method} {path}"
        try:
            reply = await self._client.request(
                method, path, params=params, json=json, content=content, headers=headers
            )
        except httpx.LocalProtocolError:
            # its text quotes the header that is wrong: the secret
            raise Transient(f"{call}: the request could not be written") from None
        except httpx.HTTPError as error:
            raise Transient(f"{call}: {type(error).__name__} {error}".rstrip()) from None
        if reply.is_success:
            if server_time := _http_date(reply.headers.get("Date", "")):
                self.skew = server_time - self._clock.now()
            return reply
        confidential = content is not None or self._secret in reply.text
        raise classify(call, reply.status_code, reply.text, confidential=confidential)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _json_object(call: str, reply: httpx.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Transient(f"{call}: {reply.status_code} with an unreadable body")
    return body


def _by_id(call: str, entries: Any) -> dict[str, Any]:
    if isinstance(entries, dict):
        return entries
    try:
        return {entry["id"]: entry for entry in entries}
    except (TypeError, KeyError):
        raise Transient(f"{call}: an unreadable listing") from None


def _total(reply: httpx.Response, body: dict[str, Any]) -> int | None:
    """How many entries there are: a header of the instance API, a field of the newer ones."""
    try:
        return int(reply.headers.get("X-Total-Count", body.get("total_count")))
    except (TypeError, ValueError):
        return None
