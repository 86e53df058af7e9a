"""Text into four languages, so that what is read back is exactly what was put in.

Every function takes any text that `refuse_unwritable` lets pass. Bash itself is quoted by
`shlex.quote` and by here-documents under `end_marker`.
"""

import re
from collections.abc import Iterable

_LAST_TWO_OF_EACH_PLANE = "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
_UNWRITABLE = re.compile(f"[\\0\ud800-\udfff\ufdd0-\ufdef{_LAST_TWO_OF_EACH_PLANE}]")
"""NUL, which neither bash nor a variable can hold, and what systemd does not take for UTF-8."""

_HOCON_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_ENVIRONMENT_ESCAPES = str.maketrans({c: f"\\{c}" for c in '"\\`$'})
_EXEC_ESCAPES = str.maketrans(
    {chr(code): f"\\x{code:02x}" for code in (*range(1, 0x20), 0x7F)}
    | {"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"}
)
_PLAIN_EXEC_WORD = re.compile(r"[A-Za-z0-9_./:=+-]+", re.ASCII)
_END_OF_FILE = "END_OF_FILE"


def refuse_unwritable(name: str, text: str) -> None:
    """Raise ValueError, naming `name` but not the text, when it cannot reach an instance."""
    found = _UNWRITABLE.search(text)
    if found:
        raise ValueError(f"{name} holds the character U+{ord(found[0]):04X}, which cannot be used")


def hocon_string(text: str) -> str:
    """A quoted string for clearml.conf, with the only escapes its parser (pyhocon) undoes."""
    return f'"{text.translate(_HOCON_ESCAPES)}"'


def environment_line(name: str, value: str) -> str:
    """An assignment for a systemd EnvironmentFile, which a shell reads alike.

    Line breaks stay as they are inside the quotes.
    """
    return f'{name}="{value.translate(_ENVIRONMENT_ESCAPES)}"'


def exec_word(text: str) -> str:
    """One argument of a systemd ExecStart line: no specifier, no variable, no word splitting."""
    if _PLAIN_EXEC_WORD.fullmatch(text):
        return text
    return f'"{text.translate(_EXEC_ESCAPES)}"'


def end_marker(contents: Iterable[str]) -> str:
    """A here-document delimiter that occurs in none of the contents."""
    marker, everything = _END_OF_FILE, "\n".join(contents)
    while marker in everything:
        marker += "_"
    return marker
