"""As much of protobuf's wire format as Terraform's plugin protocol needs, without its compiler.

A message is a dict from field numbers to lists of values; its meaning stands in `provider.py`.
"""

from collections.abc import Iterable

Field = tuple[int, "int | bool | str | bytes"]


def message(fields: Iterable[Field]) -> bytes:
    """Fields in their order; text, bytes and inner messages have a length, the rest are varints."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(int(value)))
        else:
            content = value.encode() if isinstance(value, str) else value
            parts.append(_varint(number << 3 | 2) + _varint(len(content)) + content)
    return b"".join(parts)


def fields(content: bytes) -> dict[int, list[bytes]]:
    """The length-delimited fields of a message; the others are of no interest here."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(content):
        key, at = _read_varint(content, at)
        value, at = _read_varint(content, at)
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(content[at : at + value])
            at += value
        elif key & 7:
            raise ValueError(f"wire type {key & 7}")
    return found


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (content[at] & 127) << shift
        shift += 7
        at += 1
        if content[at - 1] < 128:
            return value, at
