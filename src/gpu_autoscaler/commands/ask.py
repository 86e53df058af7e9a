"""`explain` and `status`: asked of the running daemon, or found out by itself where none runs."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gpu_autoscaler.commands.plan import look
from gpu_autoscaler.commands.wiring import Setup
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.policy.explain import Explainer
from gpu_autoscaler.web.app import EXPLANATION
from gpu_autoscaler.web.status import STATUS
from gpu_autoscaler.web.status import status as status_of

DEFAULT_URL = "http://127.0.0.1:8080"

TIMEOUT_SECONDS = 10.0
WATCH_SECONDS = 5.0
LINES = 8
"""Of the decision log, below the tables."""


class Unreachable(Exception):
    """No daemon answers there."""


class Asker:
    """`setup` is called only where no daemon answers: it needs the configuration and secrets."""

    def __init__(
        self,
        url: str,
        token: str | None,
        setup: Callable[[], Setup],
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._setup, self._clock = url.rstrip("/"), setup, clock
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            headers=headers, timeout=TIMEOUT_SECONDS, transport=transport
        )

    async def explain(self, name: str, console: Console, *, as_json: bool) -> int:
        """Print it. 1 when there is nothing of that name. Raises OSError."""
        try:
            found = await self._get(f"explain/{quote(name, safe='')}")
        except Unreachable as error:
            self._say(console, error, as_json=as_json)
            cycle = await look(self._setup(), self._clock)
            explainer = Explainer(cycle.world, cycle.plan, cycle.config, self._clock.now())
            found = EXPLANATION.dump_python(explainer.explain(name), mode="json")
        if as_json:
            console.print_json(json.dumps(found))
        else:
            for sentence in found["sentences"]:
                console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        return 1 if found["kind"] == "unknown" else 0

    async def status(self, console: Console, *, watch: bool, as_json: bool) -> int:
        """Print it, once or again and again until it is interrupted. Raises OSError."""
        if watch:
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                while True:
                    live.update(_shown(await self._status(console), self._clock), refresh=True)
                    await self._clock.sleep(WATCH_SECONDS)
        found = await self._status(console, quiet=as_json)
        if as_json:
            console.print_json(json.dumps(found))
        else:
            console.print(_shown(found, self._clock))
        return 0

    async def _status(self, console: Console, *, quiet: bool = False) -> dict[str, Any]:
        try:
            return await self._get("status")
        except Unreachable as error:
            self._say(console, error, as_json=quiet)
            cycle = await look(self._setup(), self._clock)
            found: dict[str, Any] = STATUS.dump_python(status_of(cycle, dry_run=True), mode="json")
            return found

    def _say(self, console: Console, error: Unreachable, *, as_json: bool) -> None:
        if not as_json:
            console.print(f"[dim]{escape(str(error))}: looking myself.[/]", soft_wrap=True)

    async def _get(self, path: str) -> dict[str, Any]:
        """Raises Unreachable where no daemon answers, OSError for what one refuses."""
        try:
            reply = await self._client.get(f"{self._url}/api/v1/{path}")
            body = reply.json()
        except (httpx.TransportError, httpx.InvalidURL):
            raise Unreachable(f"no daemon answers at {self._url}") from None
        except ValueError:
            raise Unreachable(f"what answers at {self._url} is no daemon of this kind") from None
        if not isinstance(body, dict) or "error" in body:
            why = body["error"] if isinstance(body, dict) else "no answer that makes sense"
            raise OSError(f"{self._url} answers {reply.status_code}: {why}")
        return body


def _shown(found: dict[str, Any], clock: Clock) -> Group:
    def ago(moment: str | None) -> str:
        if moment is None:
            return ""
        seconds = round((clock.now() - datetime.fromisoformat(moment)).total_seconds())
        return format_duration(timedelta(seconds=max(0, seconds)))

    money = found["money"]
    head = Text(f"{found['fleet']}, {ago(found['at'])} ago", "bold")
    if money["eur_per_hour"] is not None:
        head.append(f"   {money['eur_per_hour']:.2f} EUR/h")
        if read_at := money.get("prices_read_at"):  # an older daemon does not say it
            head.append(f" by prices read {ago(read_at)} ago")
    if money["spent_eur"] is not None:
        head.append(f"   {money['spent_eur']:.2f} EUR in {money['month']}")
        head.append(f", {money['saved_eur']:.2f} saved")
    budgets = [
        Text(
            f"{each['spent_eur']:.2f} of {each['name']}, {each['projected_eur']:.2f} by "
            f"{each['until'][:16].replace('T', ' ')} UTC if all goes on"
            + (": used up, nothing is launched until then" if each["holds"] else ""),
            "red" if each["holds"] else "",
        )
        for each in found.get("budgets", ())  # an older daemon does not say it
    ]
    problems = [
        Text(f"{each['subject']}: {each['text']}", "red" if each["severity"] == "error" else "")
        for each in found["problems"]
    ]
    queues = Table("Queue", "Waiting", "Oldest", "Busy", "Billed", "Why", expand=True)
    for each in found["queues"]:
        billed = f"{each['billed']} of {each['max_instances']}"
        figures = (str(each["waiting"]), ago(each["oldest_since"]), str(each["busy"]), billed)
        queues.add_row(escape(each["name"]), *figures, escape(each["because"]))
    instances = Table("Instance", "State", "For", "Task", "Next", expand=True)
    for each in found["instances"]:
        task, step = each["task"], each["next"]
        instances.add_row(
            escape(each["name"]),
            each["state"].replace("_", " "),
            ago(each["since"]),
            escape(task["name"]) if task else "",
            escape(f"{step['what']} at {step['at'][11:16]}" if step else each["because"]),
        )
    lines = [
        Text(f"{each['at'][11:16]} {each['verb']} {each['subject']}: {each['because']}", "dim")
        for each in found["decisions"][:LINES]
    ]
    return Group(head, *budgets, *problems, queues, instances, *lines)
