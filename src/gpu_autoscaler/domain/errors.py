"""What can go wrong when an API is asked for something, in our own words.

An adapter classifies every failure into one of these at its edge; nothing above an adapter sees
an HTTP status, an SDK exception or a string match. The message is written for the operator: what
was asked, of which resource, and what came back. It never holds a secret.
"""


class ApiError(Exception):
    """Any classified failure of a call to ClearML or Scaleway."""


class Transient(ApiError):
    """Trying again later may help: timeouts, 5xx, broken replies, resources in transition."""


class RateLimited(ApiError):
    """The API asked us to slow down (429)."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds the API asked us to wait, or None when it did not say (Scaleway never does)."""


class OutOfStock(ApiError):
    """Scaleway has no free machine of this type in this zone now."""


class QuotaExceeded(ApiError):
    """The organization's quota for this type is used up; a person has to ask for more."""


class Rejected(ApiError):
    """The request itself is wrong (bad image, bad volume, wrong state): repeating it is no use."""


class Unauthorized(ApiError):
    """The credentials were refused, or may not do this."""


class Forbidden(Unauthorized):
    """The credentials are good, but may not do this."""


class NotFound(ApiError):
    """The resource does not exist (any more)."""


class StoreError(OSError):
    """Memory cannot be read or kept where it should be; the message says what to do."""


class StateInUse(StoreError):
    """Another process on this machine uses the state directory."""


class StateRefused(OSError):
    """What is stored may not be used by this version: a person has to act, waiting is no use."""


class LeaseLost(OSError):
    """Another daemon of this fleet holds the lease by now: this one must not act."""
