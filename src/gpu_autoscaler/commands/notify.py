"""`notify test`: one message to every channel, to see which of them work."""

import asyncio
import json
from dataclasses import dataclass

from rich.console import Console

from gpu_autoscaler.commands.wiring import Setup
from gpu_autoscaler.config.channels import scheme
from gpu_autoscaler.web.channel import DEADLINE_SECONDS, Send, refusal, send_by_apprise
from gpu_autoscaler.web.wording import Message


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of the message to one channel; its URL is nobody's business."""

    number: int
    scheme: str
    error: str


async def notify_test(
    setup: Setup, console: Console, *, as_json: bool, send: Send = send_by_apprise
) -> int:
    """Say of each channel whether it took the message; the exit code."""
    config = setup.config
    message = Message(
        f"[{config.fleet}] test",
        "A test: what is wrong with the GPU fleet will be told here. Nothing is to be done.",
    )
    urls = [channel.url for channel in config.notifications]
    tried = await asyncio.gather(
        *(_try(number, url, message, send) for number, url in enumerate(urls, start=1))
    )
    good = bool(tried) and not any(each.error for each in tried)
    if as_json:
        rows = [{"number": t.number, "scheme": t.scheme, "error": t.error or None} for t in tried]
        console.file.write(json.dumps({"ok": good, "channels": rows}, indent=2) + "\n")
        return 0 if good else 1
    for each in tried:
        mark = "[red]bad[/] " if each.error else "[green]ok[/]  "
        detail = f": {each.error}" if each.error else ""
        console.print(f"{mark} channel {each.number} ({each.scheme}){detail}", highlight=False)
    if not tried:
        console.print("no channels: `notifications` in the configuration is empty")
    return 0 if good else 1


async def _try(number: int, url: str, message: Message, send: Send) -> Tried:
    sending = asyncio.ensure_future(send(url, message))
    done, _ = await asyncio.wait([sending], timeout=DEADLINE_SECONDS)
    if not done:
        sending.cancel()
        return Tried(number, scheme(url), f"no answer within {DEADLINE_SECONDS:.0f} s")
    return Tried(number, scheme(url), refusal(sending))
