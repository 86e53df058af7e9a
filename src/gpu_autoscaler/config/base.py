"""What all settings have in common."""

from pydantic import BaseModel, ConfigDict

CROSS_FIELD = "cross_field"
"""Type of an error about two keys that contradict each other."""


class Settings(BaseModel):
    """Checked once, then frozen; unknown keys are errors; values stay out of error texts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )
