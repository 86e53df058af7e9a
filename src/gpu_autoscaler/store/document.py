"""The stored form of memory: whether this version of the daemon may read it."""

from pydantic import TypeAdapter

from gpu_autoscaler.domain.errors import StateRefused
from gpu_autoscaler.domain.memory import SCHEMA_VERSION

_KEYS = TypeAdapter(dict[str, object])


def refuse_newer(content: bytes, place: str) -> None:
    """Raise StateRefused for content that a newer daemon wrote, and pydantic's ValidationError
    for what is no JSON object. `place` is where it was found, for people."""
    version = _KEYS.validate_json(content).get("version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StateRefused(
            f"{place}: written by a newer version of the daemon (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); run that one, or keep the memory elsewhere (state_dir, store)"
        )
