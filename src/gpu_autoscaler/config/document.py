"""A YAML file as plain text values, each with the line it came from.

Every scalar stays text (or None when nothing is written): what `30:00`, `on`, `1_000` or `3.10`
means is decided by the setting it is given to, not by YAML 1.1. Variables are expanded after
parsing, in values only, so that what they hold can never become YAML; block text (`|`, `>`) is
taken as it stands, because scripts have a `${HOME}` of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpu_autoscaler.config.problems import ConfigError, KeyPath, Problem, format_key_path
from gpu_autoscaler.config.secrets import SECRET_VARIABLES

MAX_FILE_BYTES = 256 * 1024
"""A hundred queues with scripts stay far below."""

MAX_VALUES = 20_000
MAX_DEPTH = 20
"""Bounds on what aliases may unfold to."""

_YAML_TAG = "tag:yaml.org,2002:"
_NULL, _MERGE = _YAML_TAG + "null", _YAML_TAG + "merge"
_PLAIN_TAGS = frozenset(
    _YAML_TAG + name
    for name in ("null", "bool", "int", "float", "timestamp", "str", "value", "map", "seq")
)
_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^{}]*))?\})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value was written, and how (before variables were expanded)."""

    file: str
    line: int | None
    raw: str | None = None
    """None for lists and mappings."""


@dataclass(slots=True)
class Document:
    """What a file says: `data` of dict, list, str and None; a mark for each path in it."""

    file: str
    data: Any = None
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spoiled: set[KeyPath] = field(default_factory=set)
    """Paths with a problem of their own: what else is wrong with their value is no news."""

    def mark(self, path: KeyPath) -> Mark:
        """The mark of a path, or of its nearest ancestor that is written down."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path) or Mark(self.file, None)

    def report(self, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        """Add a problem at a path."""
        mark = self.mark(path)
        key = format_key_path(path)
        self.problems.append(Problem(mark.file, mark.line, key, message, suggestion))
        self.spoiled.add(path)


def read_bytes(path: Path) -> bytes:
    """Content of a regular file.

    Raises ConfigError when it is missing, unreadable, something else, or above MAX_FILE_BYTES.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError([Problem(str(path), None, "", "is not a file")])
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "the system refused"
        message = f"cannot be read: {reason[0].lower()}{reason[1:]}"
        raise ConfigError([Problem(str(path), None, "", message)]) from None
    if len(content) > MAX_FILE_BYTES:
        message = f"is larger than {MAX_FILE_BYTES} bytes"
        raise ConfigError([Problem(str(path), None, "", message)])
    return content


def parse_document(content: bytes, file: str, env: Mapping[str, str]) -> Document:
    """Parse YAML whose root is a mapping; problems in single values are kept in the document.

    Raises ConfigError when there is nothing to go on with: not UTF-8, not YAML, no mapping.
    """
    document = Document(file)
    root = _compose(content, file)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _NULL):
        raise ConfigError([Problem(file, None, "", "is empty")])
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise ConfigError([Problem(file, line, "", "expected keys with values, as in fleet: x")])
    document.data = _Builder(document, env).build(root, ())
    return document


def _compose(content: bytes, file: str) -> yaml.Node | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(file, line, "", "is not UTF-8 text")]) from None
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"control character #x{error.character:02x} is not allowed"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        message = _syntax_message(error, text.splitlines()[line - 1 : line])
    except RecursionError:
        line, message = 1, f"is nested deeper than {MAX_DEPTH} levels"
    raise ConfigError([Problem(file, line, "", message)])


def _syntax_message(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    if "'\\t'" in (error.problem or ""):
        return "tabs do not indent in YAML; use spaces"
    message = "not valid YAML: " + ": ".join(filter(None, (error.context, error.problem)))
    if error.context_mark and error.problem_mark:
        message += f" (it began in line {error.context_mark.line + 1})"
    if any("${" in line for line in lines):
        message += " (inside { } or [ ], quote a value that holds ${...})"
    return message


class _Builder:
    """Turns nodes into plain values and notes where each came from."""

    def __init__(self, document: Document, env: Mapping[str, str]) -> None:
        self._document = document
        self._env = env
        self._values = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        line = node.start_mark.line + 1
        self._document.marks.setdefault(path, Mark(self._document.file, line))
        if self._values > MAX_VALUES or len(path) > MAX_DEPTH:
            message = f"unfolds to more than {MAX_VALUES} values or {MAX_DEPTH} levels"
            raise ConfigError([Problem(self._document.file, line, "", message)])
        if node.tag not in _PLAIN_TAGS:
            self._document.report(path, f"the tag {node.tag} is not allowed")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node.value, path)

    def _mapping(self, pairs: list[tuple[yaml.Node, yaml.Node]], path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in pairs:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                self._reject(line, path, "<< is not supported: what queues share goes in defaults")
            elif not isinstance(key_node, yaml.ScalarNode):
                self._reject(line, path, "a key must be plain text")
            elif (key := key_node.value) in built:
                first = self._document.marks[(*path, key)].line
                self._reject(line, (*path, key), f"is already set in line {first}")
            else:
                self._document.marks[(*path, key)] = Mark(self._document.file, line)
                built[key] = self.build(value_node, (*path, key))
        return built

    def _reject(self, line: int, path: KeyPath, message: str) -> None:
        key = format_key_path(path)
        self._document.problems.append(Problem(self._document.file, line, key, message))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> str | None:
        mark = self._document.marks[path]
        self._document.marks[path] = Mark(mark.file, mark.line, node.value)
        plain = node.style is None
        if node.style in ("|", ">"):
            return str(node.value)
        if plain and node.tag == _NULL:
            return None
        expanded = self._expand(node.value, path)
        # `key: ${VAR:-}` says "unless VAR is set, as if the value were not written"
        return None if plain and not expanded else expanded

    def _expand(self, text: str, path: KeyPath) -> str:
        def replace(found: re.Match[str]) -> str:
            name, has_default, default = found.groups()
            if found[0] == "$${":
                return "${"
            if name is None:
                message = "${ starts a variable like ${NAME} or ${NAME:-default}"
                self._document.report(path, f"{message}; write $${{ to mean ${{ itself")
            elif name in SECRET_VARIABLES:
                self._document.report(path, f"{name} is the daemon's secret, not for this file")
            elif self._env.get(name) or (name in self._env and not has_default):
                return self._env[name]
            elif has_default:
                return str(default)
            else:
                message = f"the environment variable {name} is not set"
                self._document.report(path, f"{message}; set it or write ${{{name}:-default}}")
            return ""

        return _VARIABLE.sub(replace, text)
