"""The doctor at ClearML: the daemon's key and the agents', what they may do, the queues."""

from datetime import timedelta

from gpu_autoscaler.clearml.api import ClearmlApi
from gpu_autoscaler.clearml.checks import NOTHING, Identity
from gpu_autoscaler.commands.findings import Finding, Verdict, bad, good, note, tried
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.errors import ApiError, Unauthorized

LARGE_SKEW = timedelta(seconds=5)
"""Dates come in whole seconds, and a question takes its time."""
NO_QUEUE = "ClearML has no queue of this name; create it, or rename"
AGENT_KEYS = "GPU_AUTOSCALER_AGENT_CLEARML_ACCESS_KEY and _SECRET_KEY"


async def of_clearml(
    config: Config, secrets: Secrets, clearml: ClearmlApi, agents: ClearmlApi
) -> tuple[list[Finding], dict[str, Finding]]:
    """What is found of ClearML itself, and of each queue by its name.

    `agents` is ClearML through the key that instances get. When the daemon's own key does not
    work, or the server does not answer, that is said once and nothing else is asked.
    """
    group = f"ClearML at {config.clearml.api_host}"
    checks = clearml.checks
    try:
        daemon = await checks.identity()
    except ApiError as error:
        return [Finding(group, "login", bad(f"{error} (nothing else was asked)"))], {}

    async def reads() -> Verdict:
        await clearml.workers()
        await clearml.open_tasks([NOTHING])
        return good("can be read")

    async def rights() -> Verdict:
        refused = await checks.refused()
        if not refused:
            return good("allowed, as far as can be told without changing anything")
        names = ", ".join(refused)
        return bad(f"refused: {names}; give {daemon.name} a role that may change tasks and queues")

    async def machines() -> Verdict:
        return await _of_agents(daemon, secrets, agents)

    findings = [
        Finding(group, f"login as {daemon.name}", _of_token(checks.token_lifetime)),
        Finding(group, "clock", _of_clock(clearml.skew)),
        await tried(group, "workers and tasks", reads),
        await tried(group, "changing tasks and queues", rights),
        await tried(group, "the agents' key", machines),
    ]
    try:
        found = await clearml.queues(list(config.queues))
    except ApiError as error:
        return [*findings, Finding(group, "queues", bad(str(error)))], {}
    queues = {}
    for name in config.queues:
        exists = good("exists at ClearML") if name in found else bad(NO_QUEUE)
        queues[name] = Finding(f"Queue {name}", f"queue {name}", exists)
    return findings, queues


def _of_token(seconds: float | None) -> Verdict:
    if seconds is None:
        return good("its tokens do not say how long they last; a refused one is replaced")
    lifetime = format_duration(timedelta(seconds=int(seconds)))
    return good(f"its tokens last {lifetime} and are renewed by themselves")


def _of_clock(skew: timedelta) -> Verdict:
    """A difference is no harm: all of ClearML's moments are corrected by it."""
    seconds = round(skew.total_seconds())
    if abs(skew) <= LARGE_SKEW:
        return good("as ours, to a few seconds")
    side = "ahead of" if seconds > 0 else "behind"
    return note(
        f"{abs(seconds)} s {side} this machine's; the daemon corrects for it, but one of the two "
        "should be set by NTP"
    )


async def _of_agents(daemon: Identity, secrets: Secrets, agents: ClearmlApi) -> Verdict:
    own = (secrets.clearml_access_key, secrets.clearml_secret_key)
    if own == (secrets.agent_clearml_access_key, secrets.agent_clearml_secret_key):
        return good("is the daemon's own")
    try:
        agent = await agents.checks.identity()
    except Unauthorized as error:
        return bad(f"{error}; here it is {AGENT_KEYS}: no instance would ever become a worker")
    if agent.company_id != daemon.company_id:
        return bad(
            f"{agent.name} works in another workspace than {daemon.name}: the daemon would see "
            f"none of its workers; make both keys in one workspace"
        )
    if agent.user_id != daemon.user_id:
        return note(
            f"is {agent.name}'s, the daemon's is {daemon.name}'s: ClearML lets only a worker's own "
            "user take it off the list, so dead ones stay there for 10 minutes; make both keys as "
            "one user"
        )
    return good(f"is another key of {agent.name}, as it should be")
