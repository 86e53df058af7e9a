"""What the library makes of a channel's URL."""

import pytest
from apprise import OverflowMode

from gpu_autoscaler.config.channels import open_channel, scheme


@pytest.mark.parametrize(
    ("more", "mode"), [("", OverflowMode.SPLIT), ("?overflow=truncate", OverflowMode.TRUNCATE)]
)
def test_a_long_message_is_split_unless_the_url_says_otherwise(
    more: str, mode: OverflowMode
) -> None:
    sender = open_channel(f"json://127.0.0.1/{more}")
    assert sender is not None
    assert [service.overflow_mode for service in sender] == [mode]


def test_it_starts_no_threads_of_its_own() -> None:
    sender = open_channel("json://127.0.0.1/")
    assert sender is not None
    assert not sender.asset.async_mode


def test_the_scheme_is_all_that_is_shown() -> None:
    assert scheme(" Slack://a/b/c") == "slack"
