"""What a channel's URL means: the only module that knows the library behind notifications."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apprise import Apprise


def open_channel(url: str) -> "Apprise | None":
    """A sender to this one channel; None when the URL is not understood. Nothing is sent yet.

    It works in the thread that calls it and in no other one: the library's own threads would keep
    the process from ending while a service hangs.
    """
    import apprise  # noqa: PLC0415 - loads a hundred modules, which many never need

    # it names hosts, users and parts of URLs; what is worth saying is said by us
    logging.getLogger("apprise").disabled = True
    sender = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False, service_timeout=0))
    try:
        understood = sender.add(url)
    except Exception:  # whatever one of a hundred parsers did not expect
        return None
    for service in sender:
        # or a long message is refused by services that bound its length, again and again
        if service.overflow_mode is apprise.OverflowMode.UPSTREAM:
            service.overflow_mode = apprise.OverflowMode.SPLIT
    return sender if understood and len(sender) == 1 else None


def scheme(url: str) -> str:
    """The part of a channel's URL that is no secret."""
    return url.partition("://")[0].strip().lower()
