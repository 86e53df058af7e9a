"""What each recorded or reported refusal means."""

import json
from typing import Any

import pytest

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
from gpu_autoscaler.scaleway.refusals import classify

CALL = "POST /instance/v1/zones/fr-par-2/servers/s1/action"
LEGACY = "invalid_request_error"


def body(kind: str | None, message: str, **facts: Any) -> str:
    return json.dumps({"message": message, **facts} | ({"type": kind} if kind else {}))


STOCK = body("out_of_stock", "resource is out of stock", resource="H100-1-80G")
QUOTA = [{"current": 10, "quota": 10, "resource": "human"}]
PRECONDITION = "precondition is not respected"


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        # out of stock: no two sources agree on the status
        (412, STOCK, OutOfStock),
        (403, STOCK, OutOfStock),
        (503, STOCK, OutOfStock),
        (503, body(None, "server_type_unavailable"), OutOfStock),
        (400, body(LEGACY, "H100-1-80G is out of stock"), OutOfStock),
        (403, body("quotas_exceeded", "quota(s) exceeded", details=QUOTA), QuotaExceeded),
        (403, body("quotas_exceeded", "quota(s) exceeded", details=[{}]), QuotaExceeded),
        (403, body(LEGACY, "Quota exceeded for this resource."), QuotaExceeded),
        (429, "", RateLimited),
        (429, "<html>slow down</html>", RateLimited),
        (409, body("transient_state", "resource is in a transient state"), Transient),
        (409, body("conflict", "Group is in use. You cannot delete it."), Transient),
        (409, "", Transient),
        (412, body("precondition_failed", PRECONDITION), Transient),
        (400, body("precondition_failed", PRECONDITION, precondition="x"), Transient),
        (400, body("resource_still_in_use", "instance should be powered off"), Transient),
        (
            412,
            body("precondition_failed", PRECONDITION, precondition="protected_resource"),
            Rejected,
        ),
        (403, body("locked", "resource is locked", resource="server"), Rejected),
        (403, body("permissions_denied", "insufficient permissions"), Forbidden),
        (401, body("denied_authentication", "denied", method="api_key"), Unauthorized),
        (401, "", Unauthorized),
        (403, body(None, "one or more job runs are still running"), Forbidden),
        (404, body("not_found", "resource is not found"), NotFound),
        (404, body("unknown_resource", '"1" not found'), NotFound),
        # a gateway without routes: taken at its word, every machine would be gone
        (404, "", Transient),
        (404, "<html>404 page not found</html>", Transient),
        (400, body("invalid_arguments", "invalid argument(s)"), Rejected),
        (400, body(LEGACY, "server should be running"), Rejected),
        (400, "", Rejected),
        (500, body("internal_error", "internal error"), Transient),
        (502, "<html>Bad Gateway</html>", Transient),
        (504, "", Transient),
        (500, '{"type": "int', Transient),
        (302, "", Transient),
    ],
)
def test_class_of_a_refusal(status: int, text: str, expected: type[ApiError]) -> None:
    assert type(classify(CALL, status, text)) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            body(
                "invalid_arguments",
                "invalid argument(s)",
                details=[
                    {"argument_name": "reverse", "reason": "constraint", "help_message": "Resolve!"}
                ],
            ),
            "invalid_arguments: invalid argument(s) details: argument_name: reverse, "
            "reason: constraint, help_message: Resolve!",
        ),
        (
            body(LEGACY, "Validation Error", fields={"volumes.5.id": ["92 is not a valid UUID."]}),
            "invalid_request_error: Validation Error fields: volumes.5.id: 92 is not a valid UUID.",
        ),
    ],
)
def test_the_message_names_the_call_and_what_scaleway_said(text: str, words: str) -> None:
    assert str(classify(CALL, 400, text)) == f"{CALL}: 400 {words}"


def test_a_confidential_refusal_keeps_its_type_alone() -> None:
    text = body("invalid_arguments", "bad value: hunter2")
    assert str(classify(CALL, 400, text, confidential=True)) == f"{CALL}: 400 invalid_arguments"
