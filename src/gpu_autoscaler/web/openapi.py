"""The API's own description, made from the types that it answers with."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from gpu_autoscaler import __version__
from gpu_autoscaler.policy.explain import Explanation
from gpu_autoscaler.reports.period import ALLOWED
from gpu_autoscaler.reports.report import By
from gpu_autoscaler.web.status import Status

REF = "#/components/schemas/{model}"

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_SINCE = {
    "name": "since",
    "in": "query",
    "description": f"As `gpu-autoscaler cost --since`; by default `month`: {ALLOWED}",
    "schema": {"type": "string"},
}
_BY = {"name": "by", "in": "query", "schema": {"enum": [*By], "default": By.DAY}}
_COSTS = {
    "type": "object",
    "description": "As `gpu-autoscaler cost --format json`; config/README.md says what it means.",
    "properties": {
        "fleet": {"type": "string"},
        "since": {"type": "string", "format": "date-time"},
        "until": {"type": "string", "format": "date-time"},
        "by": {"enum": [*By]},
        "rows": {"type": "array", "items": {"type": "object"}},
        "overhead": {"type": "array", "items": {"type": "object"}},
        "total": {"type": "object"},
        "always_on": {"type": ["object", "null"]},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["fleet", "since", "until", "by", "rows", "overhead", "total", "warnings"],
}
_REQUESTS = {"queues": ("pause", "resume"), "instances": ("keep", "release", "stop")}
_REFUSALS = {
    "400": "What is asked for says nothing; what may be written.",
    "401": "The token is missing or wrong.",
    "403": "This machine may not ask, or the header X-Requested-With is missing.",
    "409": "The plan says why it is not done.",
    "503": "No cycle has ended yet.",
    "504": "No cycle has answered in time.",
}


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas: dict[str, Any] = {}
    for kind in (Status, Explanation):
        schema = TypeAdapter(kind).json_schema(ref_template=REF, mode="serialization")
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
    schemas["Costs"] = _COSTS
    schemas["Done"] = _sentence("done", "What is done now.")
    schemas["Refused"] = _sentence("error", "Why nothing is done, and what to do.")
    paths: dict[str, Any] = {
        "/healthz": {"get": _operation("Whether the loop turns", None, secured=False)},
        "/readyz": {"get": _operation("Whether it has looked once", None, secured=False)},
        "/metrics": {"get": _operation("For Prometheus", None)},
        "/api/v1/status": {"get": _operation("What the last cycle saw and decided", "Status")},
        "/api/v1/explain/{name}": {
            "get": _operation("Why a task, an instance or a queue is as it is", "Explanation"),
            "parameters": [_NAME],
        },
        "/api/v1/costs": {
            "get": _operation("What a period has cost, and by what", "Costs"),
            "parameters": [_SINCE, _BY],
        },
        "/api/v1/reconcile": {"post": _operation("Begin the next cycle now", "Done")},
    }
    for noun, verbs in _REQUESTS.items():
        for verb in verbs:
            operation = _operation(f"{verb.capitalize()} one of the {noun}", "Done")
            path = f"/api/v1/{noun}/{{name}}/{verb}"
            paths[path] = {"post": operation, "parameters": [_NAME]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "clearml-gpu-autoscaler", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _operation(summary: str, answer: str | None, *, secured: bool = True) -> dict[str, Any]:
    ok: dict[str, Any] = {"description": summary}
    if answer is not None:
        ok["content"] = _json(answer)
    responses = {"200": ok}
    if secured:
        responses |= {
            code: {"description": why, "content": _json("Refused")}
            for code, why in _REFUSALS.items()
        }
    security: list[dict[str, Any]] = [{"bearer": []}, {"basic": []}] if secured else []
    return {"summary": summary, "responses": responses, "security": security}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=schema)}}}


def _sentence(key: str, about: str) -> dict[str, Any]:
    text = {"type": "string", "description": about}
    return {"type": "object", "properties": {key: text}, "required": [key]}
