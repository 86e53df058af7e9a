"""A provider for Terraform with Scaleway's arguments and nothing behind them.

It speaks plugin protocol 5 on a socket that Terraform is told by TF_REATTACH_PROVIDERS. What it
refuses beyond the schema, the real one or the platform refuses later, with money already spent.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgpack

from tests.terraform.permissions import PERMISSION_SETS
from tests.terraform.schema import RESOURCES, Block, provider, resource
from tests.terraform.wire import Field, fields, message

ADDRESS = "registry.terraform.io/scaleway/scaleway"
UNKNOWN = msgpack.ExtType(0, b"\0")
ERROR, WARNING = 1, 2
LIST = 2
"""How blocks nest; sets differ for the real provider only in their order."""

ENVIRONMENTS = ("environment_variables", "secret_environment_variables", "env")
RESERVED = re.compile(r"PORT|SCW_.*")
MAX_VALUE = 1000
"""Characters in a variable."""

PLACES = {"zone": "fr-par-1", "region": "fr-par"}
"""Where things are that do not say where."""

REPLACING = {"scaleway_iam_api_key": "expires_at", "scaleway_secret_version": "data"}
"""Arguments that cannot be changed on what exists (the package does not tell which)."""

Values = dict[str, Any]
Diagnostic = tuple[int, str, str]
"""Severity, summary, detail."""


@contextmanager
def serve(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables with which Terraform finds the provider while it runs."""
    socket = folder / "provider.sock"
    server = grpc.server(ThreadPoolExecutor(4))
    methods = {name: _handler(answer) for name, answer in ANSWERS.items()}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("tfplugin5.Provider", methods)]
    )
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    attached = {
        "Protocol": "grpc",
        "ProtocolVersion": 5,
        "Pid": os.getpid(),
        "Test": True,
        "Addr": {"Network": "unix", "String": str(socket)},
    }
    try:
        yield {"TF_REATTACH_PROVIDERS": json.dumps({ADDRESS: attached})}
    finally:
        server.stop(None).wait()


def _handler(answer: Callable[[dict[int, list[bytes]]], list[Field]]) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        lambda request, _: answer(request), request_deserializer=fields, response_serializer=message
    )


def _get_schema(_: dict[int, list[bytes]]) -> list[Field]:
    every = [(2, message([(1, name), (2, _schema(block))])) for name, block in BLOCKS.items()]
    return [(1, _schema(provider())), *every]


def _validate(request: dict[int, list[bytes]]) -> list[Field]:
    name, values = request[1][0].decode(), _values(request[2])
    found = [*_deprecated(BLOCKS[name], values), *_refused(name, values)]
    return [(1, message([(1, severity), (2, what), (3, why)])) for severity, what, why in found]


def _plan(request: dict[int, list[bytes]]) -> list[Field]:
    name, prior, proposed = request[1][0].decode(), _values(request[2]), _values(request[3])
    if not prior:
        return [(1, _state(_unknown(BLOCKS[name], proposed)))]
    fixed = REPLACING.get(name)
    if fixed and proposed and proposed[fixed] != prior[fixed]:
        step = message([(1, message([(1, fixed)]))])
        return [(1, _state(proposed)), (2, step)]
    return [(1, _state(proposed))]


def _apply(request: dict[int, list[bytes]]) -> list[Field]:
    name = request[1][0].decode()
    return [(1, _state(_made(name, _values(request[3]))))]


ANSWERS: dict[str, Callable[[dict[int, list[bytes]]], list[Field]]] = {
    "GetSchema": _get_schema,
    "PrepareProviderConfig": lambda request: [(1, request[1][0])],
    "ValidateResourceTypeConfig": _validate,
    "Configure": lambda _: [],
    "ReadResource": lambda request: [(1, request[2][0])],
    "UpgradeResourceState": lambda request: [(1, message([(2, fields(request[3][0])[1][0])]))],
    "PlanResourceChange": _plan,
    "ApplyResourceChange": _apply,
    "Stop": lambda _: [],
}
"""By the method's name in Terraform's tfplugin5.proto, as are all numbers of fields here."""

BLOCKS = {name: resource(name) for name in RESOURCES}


def _schema(block: Block) -> bytes:
    return message([(1, 0), (2, _block(block))])


def _block(block: Block) -> bytes:
    parts: list[Field] = []
    for name, each in block.attributes.items():
        of: list[Field] = [(1, name), (2, json.dumps(each.type)), (4, each.required)]
        of += [(5, each.optional), (6, each.computed), (8, each.sensitive)]
        parts.append((2, message([*of, (9, each.deprecated is not None)])))
    for name, nested in block.blocks.items():
        bounds: list[Field] = [(3, LIST), (4, nested.at_least), (5, nested.at_most)]
        parts.append((3, message([(1, name), (2, _block(nested.block)), *bounds])))
    return message([*parts, (6, block.deprecated is not None)])


def _values(dynamic: list[bytes]) -> Values:
    """Of an object; empty when there is none."""
    values: Values | None = msgpack.unpackb(fields(dynamic[0])[1][0])
    return values or {}


def _state(values: Values) -> bytes:
    return message([(1, msgpack.packb(values or None))])


def _deprecated(block: Block, values: Values) -> Iterator[Diagnostic]:
    """A warning for each deprecated argument that is given, as the real provider warns."""
    if block.deprecated:
        yield WARNING, "Deprecated Resource", block.deprecated
    summary = "Argument is deprecated"
    for name, attribute in block.attributes.items():
        if attribute.deprecated and values[name] is not None:
            yield WARNING, summary, f"{name}: {attribute.deprecated}"
    for name, nested in block.blocks.items():
        if nested.deprecated and values[name]:
            yield WARNING, summary, f"{name}: {nested.deprecated}"
        if isinstance(values[name], list):
            for each in values[name]:
                yield from _deprecated(nested.block, each)


def _refused(name: str, values: Values) -> Iterator[Diagnostic]:
    for rule in values["rule"] if name == "scaleway_iam_policy" else ():
        for permission in rule["permission_set_names"]:
            if isinstance(permission, str) and permission not in PERMISSION_SETS:
                yield ERROR, "No such permission set", f"{permission} does not exist"
    for kind in ENVIRONMENTS:
        given = values.get(kind)
        for variable, value in given.items() if isinstance(given, dict) else ():
            if RESERVED.fullmatch(variable):
                yield ERROR, "Reserved variable", f"{variable} is the platform's own"
            if isinstance(value, str) and len(value) > MAX_VALUE:
                yield ERROR, "Variable too long", f"{variable} has more than {MAX_VALUE} characters"


def _unknown(block: Block, values: Values) -> Values:
    """With what only the service will know marked as such."""
    told = {
        name: UNKNOWN
        for name, each in block.attributes.items()
        if each.computed and values.get(name) is None
    }
    return {**values, **told} if values else values


def _made(name: str, values: Values) -> Values:
    """With what the service tells once it exists; ids begin with the place, as Scaleway's do."""
    block, made = BLOCKS[name], dict(values)
    for key, value in values.items():
        if value == UNKNOWN:
            told = PLACES.get(key, f"{key}-of-{name}")
            kinds: Values = {"string": told, "number": 0, "bool": False}
            made[key] = kinds.get(str(block.attributes[key].type), {})
    if values and values["id"] == UNKNOWN:
        place = [made[key] for key in ("zone", "region") if key in made][:1]
        made["id"] = "/".join([*place, str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}{made}"))])
    return made
