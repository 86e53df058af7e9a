"""The refusals of Scaleway's APIs, with the bodies that were recorded (or, where none was, the
shapes that its Go SDK and other public callers know). Clients tell them apart by `type`.
"""

from typing import Any

PRECONDITION_STATUS = {"instance": 400, "block": 412}
"""The instance API answers 400 where every newer API answers 412."""
OUT_OF_STOCK_STATUS = 412
"""Not evidenced by any recording; third parties agree on the body alone."""
QUOTA_STATUS = 403


class ScalewayError(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body['type']}: {body['message']}")
        self.status = status
        self.body = body

    @property
    def type(self) -> str:
        """The word that clients dispatch on."""
        return str(self.body["type"])


def not_found(resource: str, resource_id: str) -> ScalewayError:
    return ScalewayError(
        404,
        {
            "type": "not_found",
            "message": "resource is not found",
            "resource": resource,
            "resource_id": resource_id,
        },
    )


def invalid_arguments(argument: str, help_message: str) -> ScalewayError:
    detail = {"argument_name": argument, "reason": "constraint", "help_message": help_message}
    return ScalewayError(
        400,
        {"type": "invalid_arguments", "message": "invalid argument(s)", "details": [detail]},
    )


def validation(fields: dict[str, list[str]]) -> ScalewayError:
    """The old instance API's way to say that a body is malformed."""
    return ScalewayError(
        400, {"fields": fields, "message": "Validation Error", "type": "invalid_request_error"}
    )


def wrong_state(message: str) -> ScalewayError:
    """The old instance API's way to refuse an action, for example `server should be running`."""
    return ScalewayError(400, {"message": message, "type": "invalid_request_error"})


def precondition(api: str, name: str, help_message: str) -> ScalewayError:
    """`api` is `instance` or `block`; `name` is for example `resource_still_in_use`."""
    return ScalewayError(
        PRECONDITION_STATUS[api],
        {
            "help_message": help_message,
            "message": "precondition is not respected",
            "precondition": name,
            "type": "precondition_failed",
        },
    )


def transient_state(resource: str, resource_id: str, state: str) -> ScalewayError:
    return ScalewayError(
        409,
        {
            "current_state": state,
            "message": "resource is in a transient state",
            "resource": resource,
            "resource_id": resource_id,
            "type": "transient_state",
        },
    )


def out_of_stock(commercial_type: str) -> ScalewayError:
    return ScalewayError(
        OUT_OF_STOCK_STATUS,
        {
            "message": "resource is out of stock",
            "resource": commercial_type,
            "type": "out_of_stock",
        },
    )


def quotas_exceeded(resource: str, quota: int, current: int, figures: bool) -> ScalewayError:
    """Live refusals were also seen without `figures`."""
    detail: dict[str, Any] = {"resource": resource}
    if figures:
        detail |= {"quota": quota, "current": current}
    return ScalewayError(
        QUOTA_STATUS,
        {
            "details": [detail],
            "message": "quota(s) exceeded for this resource",
            "type": "quotas_exceeded",
        },
    )


def denied_authentication() -> ScalewayError:
    return ScalewayError(
        401,
        {
            "message": "authentication is denied",
            "method": "api_key",
            "reason": "not_found",
            "type": "denied_authentication",
        },
    )


def permissions_denied(action: str, resource: str) -> ScalewayError:
    return ScalewayError(
        403,
        {
            "details": [{"action": action, "resource": resource}],
            "message": "insufficient permissions",
            "type": "permissions_denied",
        },
    )
