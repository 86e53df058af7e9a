"""What Scaleway's refusals mean, in the words of `domain.errors`.

The `type` of the body decides, then the words of older services, then the status: the status of
`out_of_stock` is not the same everywhere, and a 403 is a quota as often as a permission.
"""

import json
from typing import Any

from gpu_autoscaler.domain.errors import (
    ApiError,
    Forbidden,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
)

BY_TYPE: dict[str, type[ApiError]] = {
    "out_of_stock": OutOfStock,
    "quotas_exceeded": QuotaExceeded,
    "transient_state": Transient,
    "conflict": Transient,
    "precondition_failed": Transient,
    "resource_still_in_use": Transient,
    "locked": Rejected,
    "permissions_denied": Forbidden,
    "denied_authentication": Unauthorized,
    "not_found": NotFound,
    "unknown_resource": NotFound,
    "invalid_arguments": Rejected,
}

BY_WORDS: dict[str, type[ApiError]] = {
    "server_type_unavailable": OutOfStock,
    "out of stock": OutOfStock,
    "quota exceeded": QuotaExceeded,
}
"""Older services say it in the message of an untyped or wrongly typed body."""

BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: Transient,
    409: Transient,
    412: Transient,
    429: RateLimited,
}

PROTECTED = "protected_resource"
"""The one failed precondition that waiting does not cure."""

WHAT_TO_CHECK = (
    "check GPU_AUTOSCALER_SCALEWAY_SECRET_KEY, and that its IAM policy holds "
    "InstancesFullAccess and BlockStorageFullAccess for the project"
)

TEXT_LIMIT = 500
"""Characters of Scaleway's own words that an error message repeats."""


def classify(call: str, status: int, text: str, *, confidential: bool = False) -> ApiError:
    """The error for a reply that is not a success.

    `call` names the request ("GET /instance/v1/zones/…"). With `confidential` nothing that
    Scaleway wrote is repeated except its error type: it may quote the request.
    """
    body = _object(text)
    words = "" if confidential else _words(body)
    message = f"{call}: {status} {body.get('type') or ''}".rstrip()
    if words:
        message = f"{message}: {words[:TEXT_LIMIT]}"
    kind = _class_of(status, body)
    return kind(f"{message}; {WHAT_TO_CHECK}" if issubclass(kind, Unauthorized) else message)


def _class_of(status: int, body: dict[str, Any]) -> type[ApiError]:
    message = str(body.get("message", "")).lower()
    kind = BY_TYPE.get(str(body.get("type")))
    if kind is Transient and body.get("precondition") == PROTECTED:
        return Rejected
    if kind is None:
        kind = next((error for words, error in BY_WORDS.items() if words in message), None)
    if kind is None and status == 404 and not body:
        # a gateway that lost its routes answers so: taken at its word, every machine is gone
        return Transient
    if kind is None:
        kind = BY_STATUS.get(status)
    if kind is None:
        kind = Rejected if 400 <= status < 500 else Transient
    return kind


def _object(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _words(body: dict[str, Any]) -> str:
    """Message, then every other fact of the body: argument names, help, quota figures."""
    facts = [_pairs({k: v for k, v in body.items() if k not in ("type", "message")})]
    return " ".join(part for part in (str(body.get("message") or ""), *facts) if part)


def _pairs(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_pairs(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_pairs(item) for item in value)
    return str(value)
