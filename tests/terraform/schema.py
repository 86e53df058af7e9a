"""What Scaleway's Terraform provider takes, as Pulumi's generated package tells it.

`pulumiverse-scaleway` is made from the provider's own schema by people who have nothing to do with
this project. Its source is read, never run. What the generator changes is changed back: lists of
blocks are named in the plural there, and a block that occurs once at most is a plain value.
"""

import ast
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

RESOURCES = {
    "scaleway_account_project": "account.project.Project",
    "scaleway_container": "containers.container.Container",
    "scaleway_container_cron": "containers.cron.Cron",
    "scaleway_container_namespace": "containers.namespace.Namespace",
    "scaleway_container_trigger": "containers.trigger.Trigger",
    "scaleway_iam_api_key": "iam.api_key.ApiKey",
    "scaleway_iam_application": "iam.application.Application",
    "scaleway_iam_policy": "iam.policy.Policy",
    "scaleway_instance_security_group": "instance.security_group.SecurityGroup",
    "scaleway_job_definition": "job.definition.Definition",
    "scaleway_object": "object.item.Item",
    "scaleway_object_bucket": "object.bucket.Bucket",
    "scaleway_registry_namespace": "registry.namespace.Namespace",
    "scaleway_secret": "secrets.secret.Secret",
    "scaleway_secret_version": "secrets.version.Version",
}
"""Where each resource is in the package."""

SINGULAR = {"commands": "command", "startup_commands": "startup_command"}
"""Lists of plain values that the generator renamed. The other plurals are the provider's own."""

PLAIN = {"_builtins.str": "string", "_builtins.int": "number", "_builtins.bool": "bool"}


@dataclass(slots=True)
class Attribute:
    """An argument, or what the provider only tells (`computed`)."""

    type: object
    """As cty spells it in JSON."""
    required: bool = False
    optional: bool = True
    computed: bool = False
    sensitive: bool = False
    deprecated: str | None = None


@dataclass(slots=True)
class Block:
    """A resource, or a block in one."""

    attributes: dict[str, Attribute] = field(default_factory=dict)
    blocks: dict[str, "Nested"] = field(default_factory=dict)
    deprecated: str | None = None


@dataclass(slots=True)
class Nested:
    """How often a block may occur."""

    block: Block
    at_least: int
    at_most: int
    """0: without bound."""
    deprecated: str | None


def resource(name: str) -> Block:
    """A resource of Terraform by its name there."""
    module, _, cls = RESOURCES[name].rpartition(".")
    block = _block(module, f"{cls}Args")
    block.attributes["id"] = Attribute("string", optional=False, computed=True)
    body = _classes(module)[cls]
    for getter in _getters(body):
        told = _inner(getter.returns, "pulumi.Output")
        optional = _inner(told, "Optional")
        argument = block.attributes.get(SINGULAR.get(getter.name, getter.name))
        if argument is not None:
            argument.computed = not argument.required and optional is told
        elif ast.unparse(told) in PLAIN:
            told_only = Attribute(PLAIN[ast.unparse(told)], optional=False, computed=True)
            told_only.deprecated = _deprecation(getter)
            block.attributes[getter.name] = told_only
    for secret in _secrets(body):
        block.attributes[secret].sensitive = True
    if "has been deprecated" in (ast.get_docstring(_constructors(body)[0]) or ""):
        block.deprecated = f"{name} is deprecated"
    return block


def provider() -> Block:
    """What stands in `provider "scaleway" {}`."""
    return _block("provider", "ProviderArgs")


def _block(module: str, args: str) -> Block:
    body = _classes(module)[args]
    constructor = _constructors(body)[-1].args
    deprecations = {getter.name: _deprecation(getter) for getter in _getters(body)}
    block = Block()
    for argument, default in zip(constructor.kwonlyargs, constructor.kw_defaults, strict=True):
        assert argument.annotation is not None
        taken = _inner(_inner(argument.annotation, "pulumi.Input"), "Optional")
        deprecated, required = deprecations[argument.arg], default is None
        several = _inner(taken, "Sequence")
        one = _inner(several, "pulumi.Input")
        if isinstance(one, ast.Constant):  # the name of a block's class
            folder = module.rpartition(".")[0]
            inside = _block(f"{folder}._inputs" if folder else "_inputs", str(one.value))
            once = several is taken
            name = argument.arg if once else _singular(argument.arg)
            block.blocks[name] = Nested(inside, int(required), int(once), deprecated)
        else:
            name = SINGULAR.get(argument.arg, argument.arg)
            block.attributes[name] = Attribute(
                _type(taken), required, not required, deprecated=deprecated
            )
    return block


def _singular(plural: str) -> str:
    return f"{plural[:-3]}y" if plural.endswith("ies") else plural.removesuffix("s")


def _type(taken: ast.expr) -> object:
    inner = _inner(taken, "Sequence")
    if inner is not taken:
        return ["list", PLAIN[ast.unparse(_inner(inner, "pulumi.Input"))]]
    inner = _inner(taken, "Mapping")
    if inner is not taken:
        assert isinstance(inner, ast.Tuple)
        return ["map", PLAIN[ast.unparse(_inner(inner.elts[1], "pulumi.Input"))]]
    return PLAIN[ast.unparse(taken)]


def _inner(annotation: ast.expr | None, around: str) -> ast.expr:
    """X of `around[X]`; the annotation itself when it is something else."""
    assert annotation is not None
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == around:
        return annotation.slice
    return annotation


def _deprecation(getter: ast.FunctionDef) -> str | None:
    for decorator in getter.decorator_list:
        if isinstance(decorator, ast.Call) and "deprecated" in ast.unparse(decorator.func):
            return str(ast.literal_eval(decorator.args[0]))
    return None


def _secrets(body: ast.ClassDef) -> list[str]:
    return [
        "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
        for call in ast.walk(body)
        if isinstance(call, ast.keyword) and call.arg == "additional_secret_outputs"
        for name in ast.literal_eval(call.value)
    ]


def _getters(body: ast.ClassDef) -> list[ast.FunctionDef]:
    return [
        each
        for each in body.body
        if isinstance(each, ast.FunctionDef)
        and any("pulumi.getter" in ast.unparse(by) for by in each.decorator_list)
    ]


def _constructors(body: ast.ClassDef) -> list[ast.FunctionDef]:
    return [f for f in body.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    package = find_spec("pulumiverse_scaleway")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], *module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}
