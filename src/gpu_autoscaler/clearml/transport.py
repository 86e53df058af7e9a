"""Calls to ClearML's API: log in, send, classify what comes back, try reads again.

One attempt (with a login, if it needs one) ends within `call_deadline`; httpx's own timeouts
are per phase, so a server that sends one byte now and then would never run into them. Messages
quote what came back, cleaned, and never a secret; causes are dropped (`from None`), because an
exception of httpx or pydantic may quote a header or a token.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx
import tenacity
from pydantic import ValidationError

from gpu_autoscaler.clearml.wire import LOGIN_REPLY, Claims, Meta, Reply, Verdict
from gpu_autoscaler.domain.calls import Call, OnCall, nobody
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import (
    ApiError,
    Forbidden,
    NotFound,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
)

D = TypeVar("D")

CALL_DEADLINE = 10.0
"""Seconds for one attempt; a healthy server answers in tens of milliseconds."""
ATTEMPTS = 3
RETRY_WAIT_MAX = 10.0
"""Seconds between two attempts at most, whatever the server asks for: three attempts then end
within a polling interval, with an error that says what is the matter."""
RENEW_BEFORE = 360.0
"""Seconds before its end at which a token is renewed; ClearML's SDK does it then, too."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""A waiting task is about 100 bytes, a listed one 500: far more than any real answer."""
QUOTED_CHARACTERS = 120
SEARCHED_BYTES = 64 * 1024
"""How much of an answer is searched for secrets before its beginning is quoted."""
TOKEN_LIFETIME_MAX = 365 * 24 * 3600.0
"""Seconds; ClearML gives no token for longer."""
SKEW_STEP = timedelta(seconds=1.5)
"""By so much a new measurement must differ to count: dates in whole seconds differ from each other
by up to one, and a moment must not get another time in every cycle."""
LOGIN = "auth.login"

API = "clearml"
"""Under this name its requests are counted."""

UNKNOWN_TASK = frozenset({101, 130})
"""Result subcodes of "no such task" (an unknown queue is 701, which is no verdict on the task)."""

CREDENTIALS_HINT = (
    "check GPU_AUTOSCALER_CLEARML_ACCESS_KEY and GPU_AUTOSCALER_CLEARML_SECRET_KEY"
    " (ClearML: Settings, Workspace, App credentials)"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key of a ClearML user."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The pair as HTTP basic authentication wants it."""
        return base64.b64encode(f"{self.access_key}:{self.secret_key}".encode()).decode()


class RejectedWithCode(Rejected):
    """A rejection whose ClearML subcode the caller may want to tell apart."""

    def __init__(self, message: str, subcode: int) -> None:
        super().__init__(message)
        self.subcode = subcode


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    renew_at: datetime | None
    """None for a token that does not tell: it serves until it is refused."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request, unread."""

    status: int
    body: bytes
    retry_after: str | None


class Session:
    """Authenticated calls to one ClearML server; safe for concurrent use."""

    def __init__(
        self,
        api_host: str,
        credentials: Credentials,
        clock: Clock,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        call_deadline: float = CALL_DEADLINE,
        on_call: OnCall = nobody,
    ) -> None:
        self._base = api_host.rstrip("/")
        url = httpx.URL(self._base)
        self._host = f"{url.host}:{url.port}" if url.port else url.host
        self._credentials = credentials
        self._clock, self._on_call = clock, on_call
        self._deadline = call_deadline
        self._token: _Token | None = None
        self.token_lifetime: float | None = None
        """Seconds that the last token was good for when it was new; None until one told."""
        self.skew = timedelta(0)
        """How far the server's clock is ahead of ours, as good answers tell; zero until one did."""
        self._login_lock = asyncio.Lock()
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=call_deadline,
            headers={"User-Agent": "gpu-autoscaler"},
            # Logging in sets a cookie that authenticates by itself: it must not stand in for a
            # token that was revoked.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def read(self, method: str, body: Mapping[str, Any], shape: type[Reply[D]]) -> D:
        """Ask for something; up to three attempts while trying again may help."""

        async def attempt() -> D:
            return await self.call(method, body, shape)

        return await self._persist(attempt)

    async def _persist(self, attempt: Callable[[], Awaitable[D]]) -> D:
        retrying = tenacity.AsyncRetrying(
            sleep=self._clock.sleep,
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait_before_retry,
            retry=tenacity.retry_if_exception_type((Transient, RateLimited)),
            reraise=True,
        )
        return await retrying(attempt)

    async def call(self, method: str, body: Mapping[str, Any], shape: type[Reply[D]]) -> D:
        """One attempt: right for changes, which may have happened though the answer was lost."""
        try:
            async with asyncio.timeout(self._deadline):
                answer = await self._send_with_token(method, body)
        except TimeoutError:
            raise Transient(
                f"{self._name(method)} did not answer within {self._deadline:g} s"
            ) from None
        return self._parse(method, answer, shape)

    async def _send_with_token(self, method: str, body: Mapping[str, Any]) -> Answer:
        token = await self._valid_token(refused=None)
        answer = await self._send(method, f"Bearer {token.value}", body)
        if answer.status == httpx.codes.UNAUTHORIZED:  # expired early, or revoked: once more
            token = await self._valid_token(refused=token)
            answer = await self._send(method, f"Bearer {token.value}", body)
        return answer

    async def _valid_token(self, refused: _Token | None) -> _Token:
        """The present token, or a new one when it is due, or is the one that was refused."""
        async with self._login_lock:
            token = self._token
            due = token and token.renew_at and token.renew_at <= self._clock.now()
            if token is None or token is refused or due:
                self._token = token = await self._login()
            return token

    async def _login(self) -> _Token:
        answer = await self._send(LOGIN, f"Basic {self._credentials.basic}", {})
        token = self._parse(LOGIN, answer, LOGIN_REPLY).token
        self.token_lifetime = lifetime = _lifetime(token, self._clock.now())
        if lifetime is None:
            return _Token(token, renew_at=None)
        usable = lifetime - min(RENEW_BEFORE, lifetime / 2)
        return _Token(token, self._clock.now() + timedelta(seconds=usable))

    async def _send(self, method: str, authorization: str, body: Mapping[str, Any]) -> Answer:
        """One HTTP request, whatever its status; raises Transient when there is no answer."""
        with Call(API, self._clock, self._on_call) as request:
            answer = await self._receive(method, authorization, body)
            if answer.status != httpx.codes.OK:
                request.refused(self._classify(method, answer))
            return answer

    async def _receive(self, method: str, authorization: str, body: Mapping[str, Any]) -> Answer:
        try:
            async with self._client.stream(
                "POST",
                f"{self._base}/{method}",
                json=body,
                headers={"Authorization": authorization},
            ) as response:
                server_time = _http_date(response.headers.get("Date", ""))
                if server_time and response.is_success:  # a proxy's error page has its own clock
                    self.skew = steadied(self.skew, server_time - self._clock.now())
                received = bytearray()
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > MAX_REPLY_BYTES:
                        raise Transient(
                            f"{self._name(method)} sent more than {MAX_REPLY_BYTES} bytes"
                        )
                return Answer(
                    response.status_code, bytes(received), response.headers.get("Retry-After")
                )
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            cause = self._clean(f"{type(error).__name__} {error}")
            raise Transient(f"{self._name(method)} cannot be reached: {cause}") from None

    def _parse(self, method: str, answer: Answer, shape: type[Reply[D]]) -> D:
        if answer.status != httpx.codes.OK:
            raise self._classify(method, answer)
        try:
            reply = shape.model_validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field_name = ".".join(map(str, first["loc"])) or "the whole of it"
            begins = "" if method == LOGIN else f"; it begins {self._quote(answer.body)}"
            raise Transient(
                f"{self._name(method)} sent a broken answer, {field_name}: {first['msg']}{begins}"
            ) from None
        if reply.meta.result_code != httpx.codes.OK:
            raise Transient(
                f"{self._name(method)} contradicts itself: HTTP 200,"
                f" {reply.meta.result_code} inside"
            )
        return reply.data

    def _classify(self, method: str, answer: Answer) -> ApiError:
        """The error that an answer other than 200 stands for."""
        try:
            meta: Meta | None = Verdict.model_validate_json(answer.body).meta
        except ValidationError:  # not ClearML speaking, but a proxy, or its plain text 500
            meta = None
        message = f"{self._name(method)} answered {answer.status}: {self._quote(answer.body, meta)}"
        match answer.status:
            case httpx.codes.TOO_MANY_REQUESTS:
                return RateLimited(message, _retry_after(answer.retry_after, self._clock.now()))
            case httpx.codes.UNAUTHORIZED:
                return Unauthorized(f"{message}: {CREDENTIALS_HINT}")
            case httpx.codes.FORBIDDEN:
                return Forbidden(f"{message}: {CREDENTIALS_HINT}")
            case status if meta is None or not httpx.codes.is_client_error(status):
                return Transient(message)
            case httpx.codes.BAD_REQUEST if meta.result_subcode in UNKNOWN_TASK:
                return NotFound(message)
            case _:
                return RejectedWithCode(message, meta.result_subcode)

    def _name(self, method: str) -> str:
        return f"ClearML {method} at {self._host}"

    def _quote(self, body: bytes, meta: Meta | None = None) -> str:
        """What the server said, in brief: its own message, or the beginning of what it sent."""
        if meta and meta.result_msg:
            return f"{self._clean(meta.result_msg)} ({meta.result_code}/{meta.result_subcode})"
        return self._clean(body[:SEARCHED_BYTES].decode(errors="replace")) or "nothing"

    def _clean(self, text: str) -> str:
        """One printable line without our secrets (a debugging page may echo our headers)."""
        secrets = [self._credentials.basic, self._credentials.secret_key]
        if self._token:
            secrets.append(self._token.value)
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= QUOTED_CHARACTERS else f"{line[:QUOTED_CHARACTERS]}…"


def steadied(skew: timedelta, measured: timedelta) -> timedelta:
    """The skew to go by after one more measurement, which counts whole seconds: the same moment
    must not have another time in each cycle."""
    return measured if abs(measured - skew) >= SKEW_STEP else skew


def _wait_before_retry(state: tenacity.RetryCallState) -> float:
    """Seconds to wait: 1, 2, … or what the server asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, RateLimited) else None
    wait = float(2 ** (state.attempt_number - 1)) if asked is None else asked
    return min(wait, RETRY_WAIT_MAX)


def _retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, given as such or as a date."""
    if header and header.strip().isdecimal():
        return float(header)
    moment = _http_date(header or "")
    return max(0.0, (moment - now).total_seconds()) if moment else None


def _http_date(text: str) -> datetime | None:
    """The moment that an HTTP header names, if it does."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lifetime(token: str, now: datetime) -> float | None:
    """Seconds a JWT is good for, unverified; None when it is no JWT or does not say.

    Counted from its own time of issue, so that a difference between the clocks does not matter.
    """
    try:
        payload = token.split(".")[1]
        padded = payload + "=" * (-len(payload) % 4)
        claims = Claims.model_validate_json(base64.urlsafe_b64decode(padded))
    except (IndexError, ValueError):
        return None
    seconds = claims.exp - (now.timestamp() if claims.iat is None else claims.iat)
    return min(max(seconds, 0.0), TOKEN_LIFETIME_MAX)
