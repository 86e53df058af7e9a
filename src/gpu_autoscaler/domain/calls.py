"""One request to an API while it is under way, for whoever counts requests.

Both adapters have one place through which every request goes; there each is opened with `with`.
"""

import re
from types import TracebackType
from typing import Protocol, Self

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import (
    ApiError,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
)

OK = "ok"


class OnCall(Protocol):
    """Hears of every request that ended: which API, how (`ok`, or an error's kind), how long."""

    def __call__(self, api: str, outcome: str, seconds: float) -> None: ...


def nobody(api: str, outcome: str, seconds: float) -> None:
    """An `OnCall` that listens to nothing."""


_KINDS = {
    error: re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()
    for error in (
        OutOfStock,
        QuotaExceeded,
        RateLimited,
        Rejected,
        Unauthorized,
        NotFound,
        Transient,
    )
}

OUTCOMES = (OK, *_KINDS.values())
"""Every way in which a request may end: a closed set, metrics count by it."""


def kind_of(error: BaseException) -> str:
    """One of `OUTCOMES`. What is no error of an API cut the request off: no answer in time."""
    return next((kind for each, kind in _KINDS.items() if isinstance(error, each)), "transient")


class Call:
    """Tells an `OnCall` how the request inside the `with` ended, and after how long."""

    def __init__(self, api: str, clock: Clock, on_call: OnCall) -> None:
        self._api, self._clock, self._on_call = api, clock, on_call
        self._began = clock.monotonic()
        self._refusal: ApiError | None = None

    def refused(self, error: ApiError) -> None:
        """An answer came, and is an error: for where it is raised only later."""
        self._refusal = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wrong = error or self._refusal
        outcome = OK if wrong is None else kind_of(wrong)
        self._on_call(self._api, outcome, self._clock.monotonic() - self._began)
