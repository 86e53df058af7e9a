"""The steps of `check --boot`: a queue, a task, an instance, its worker; and back to nothing."""

from rich.console import Console

from gpu_autoscaler.bootstrap.render import Bootstrap
from gpu_autoscaler.commands.removing import Removal
from gpu_autoscaler.commands.wiring import Services
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError, OutOfStock, RateLimited, Rejected, Transient
from gpu_autoscaler.domain.model import (
    BOOT_FAILED,
    CHECKED_BY_TAG,
    CreateOrder,
    FleetTags,
    Instance,
    Placement,
    ServerState,
    TaskStatus,
)
from gpu_autoscaler.policy.launch import order_of

PREFIX = "gpu-autoscaler-check-"
"""Of the names of everything that a check makes: queue, task, instance, worker."""

POLL_SECONDS = 5.0
TASK_PATIENCE = 900.0
"""Seconds for a task to start and end: in Docker mode its image may have to be pulled first."""
LISTING_PATIENCE = 60.0
"""Seconds until a server that was just made shows in the listing; it does within 30."""
LAST_LINES = 40
"""Of a console, when the task did not do what it should."""

BEGIN, END = "=== nvidia-smi ===", "=== end of nvidia-smi ==="
SCRIPT = f"""\
import subprocess
print({BEGIN!r}, flush=True)
code = subprocess.call(["nvidia-smi"])
print({END!r}, flush=True)
raise SystemExit(code)
"""

OFF_AGAIN = (ServerState.STOPPED, ServerState.STOPPING)


class Boot:
    """One check. `run`, then, whatever came of it, `remove`."""

    def __init__(
        self,
        services: Services,
        config: Config,
        bootstrap: Bootstrap,
        name: str,
        clock: Clock,
        console: Console,
    ) -> None:
        self._clearml, self._scaleway = services.clearml, services.scaleway
        self._config, self._settings = config, config.queues[name]
        self._bootstrap, self._name = bootstrap, name
        self._clock, self._console = clock, console
        self._began = clock.monotonic()
        self.step = "before it"
        """What is being done, for whoever has to say where it failed."""
        self.output = ""
        """What the task printed."""
        self._queue_id = self._task_id = ""
        self._tried: list[str] = []
        """Zones in which a creation was asked for."""
        self._perhaps_there = False
        """A creation succeeded, or nobody knows."""

    async def run(self) -> str:
        """What nvidia-smi printed. Raises ApiError with what went wrong; see `step`."""
        checks = self._clearml.checks
        self._begin("queue and task at ClearML")
        self._queue_id = await checks.create_queue(self._name)
        self._task_id = await checks.create_task(self._name, SCRIPT)
        await checks.enqueue(self._task_id, self._queue_id)
        self._begin("creation")
        await self._create()
        self._begin("boot")
        await self._until_registered()
        self._begin("task")
        return await self._until_ended()

    async def remove(self) -> list[str]:
        """Remove whatever was made, the instance first: it costs. What is left, and why, is also
        said on the console: when the check was interrupted nobody else says it."""
        left = [*await self._remove_instance(), *await self._remove_from_clearml()]
        for what in left:
            self._say(f"left behind: {what}")
        return left

    async def _remove_instance(self) -> list[str]:
        if not self._tried:
            return []
        self._say("removal, to be waited for: a second Ctrl-C leaves it there, billed")
        try:
            removal = Removal(self._scaleway, self._clock, self._console)
            if await removal.remove(await self._made(), dict.fromkeys(self._tried)):
                return []
        except ApiError as error:
            return [f"instance {self._name}, perhaps: {error}"]
        return [f"instance {self._name} or its volume"]

    async def _remove_from_clearml(self) -> list[str]:
        checks = self._clearml.checks
        left = []
        try:
            if self._task_id:
                await checks.delete_task(self._task_id)
        except ApiError as error:
            left.append(f"task {self._name}: {error}")
        try:
            # by its name: its creation may have had no answer
            for queue_id in (await checks.queues_called(self._name)).values():
                await checks.delete_queue(queue_id)
        except ApiError as error:
            left.append(f"queue {self._name}: {error}")
        return left

    def _begin(self, step: str) -> None:
        self.step = step
        self._say(step)

    def _say(self, what: str) -> None:
        seconds = int(self._clock.monotonic() - self._began)
        self._console.print(
            f"{seconds // 60:3d}:{seconds % 60:02d}  {what}", highlight=False, markup=False
        )

    # --- the instance

    async def _create(self) -> None:
        """In the first placement that has one. Raises what the last one answered."""
        refusals = []
        for where in self._settings.placements:
            self._tried.append(where.zone)
            self._perhaps_there = True
            try:
                user_data = self._bootstrap.user_data(self._name, self._name, where)
                await self._scaleway.create(self._order(where), user_data)
            except OutOfStock:
                self._perhaps_there = False
                refusals.append(f"{where} is out of stock")
                self._say(refusals[-1])
                continue
            except ApiError as error:
                self._perhaps_there = isinstance(error, Transient)
                raise
            self._say(f"{self._name} made: {where}")
            return
        raise OutOfStock(f"{'; '.join(refusals)}: try again later, or add a placement")

    def _order(self, where: Placement) -> CreateOrder:
        fleet = FleetTags(self._config.fleet, CHECKED_BY_TAG)
        tags = fleet.of_instance(self._name, self._bootstrap.spec(self._name, where))
        return order_of(self._config, self._settings, where, self._name, tags)

    async def _made(self) -> list[Instance]:
        """The instance, looked for until the listing would show it if it were there."""
        waited = 0.0
        while True:
            found = [
                instance
                for zone in dict.fromkeys(self._tried)
                for instance in await self._scaleway.instances(zone)
                if instance.name == self._name
            ]
            if found or not self._perhaps_there or waited >= LISTING_PATIENCE:
                return found
            await self._clock.sleep(POLL_SECONDS)
            waited += POLL_SECONDS

    async def _until_registered(self) -> None:
        """Raises Transient when no worker comes within the queue's `stale_timeout`."""
        patience = self._settings.stale_timeout
        deadline = self._clock.monotonic() + patience.total_seconds()
        where = "it does not show in the listing yet"
        was_on = False
        while self._clock.monotonic() < deadline:
            try:
                if any(w.machine == self._name for w in await self._clearml.workers()):
                    self._say("its worker is registered")
                    return
                instance = await self._seen()
            except (Transient, RateLimited) as error:
                instance, now = None, str(error)
            else:
                now = await self._where(instance) if instance else where
            if now != where:
                where = now
                self._say(where)
            if instance and instance.state in OFF_AGAIN and was_on:
                raise Transient(
                    f"it was on, and is off again: {where}; that is how a lack of stock"
                    " shows at times: try again later"
                )
            was_on = was_on or bool(instance and instance.state not in OFF_AGAIN)
            await self._clock.sleep(POLL_SECONDS)
        raise Transient(
            f"no worker registered within stale_timeout ({format_duration(patience)}); the last "
            f"that was seen of it: {where}. {_advice(where)}"
        )

    async def _seen(self) -> Instance | None:
        listed = await self._scaleway.instances(self._tried[-1])
        return next((instance for instance in listed if instance.name == self._name), None)

    async def _where(self, instance: Instance) -> str:
        """How far a boot is. Raises Rejected when the machine itself says that it failed."""
        where = f"{instance.state} {instance.state_detail}".rstrip()
        report = ""
        if instance.state is ServerState.RUNNING:
            report = await self._scaleway.boot_report(instance)
        if report.startswith(BOOT_FAILED):
            raise Rejected(f"it cannot become a worker; it says: {report}")
        return f"{where}; it says: {report}" if report else where

    # --- the task

    async def _until_ended(self) -> str:
        """Raises Transient when it does not end in time, Rejected when it did not do its work."""
        checks = self._clearml.checks
        deadline = self._clock.monotonic() + TASK_PATIENCE
        status = ""
        while self._clock.monotonic() < deadline:
            try:
                run = await checks.run(self._task_id)
            except (Transient, RateLimited) as error:
                status = str(error)
                await self._clock.sleep(POLL_SECONDS)
                continue
            if run.status != status:
                status = run.status
                self._say(f"the task is {status}")
            if run.status.ended:
                console = await checks.console(self._task_id)
                self.output = _between_markers(console)
                if run.status is TaskStatus.COMPLETED and self.output:
                    return self.output
                self.output = self.output or _last_lines(console)
                raise Rejected(_why(run.status, run.reason, self.output))
            await self._clock.sleep(POLL_SECONDS)
        self.output = _last_lines(await checks.console(self._task_id))
        raise Transient(f"the task is {status} after {TASK_PATIENCE / 60:.0f} minutes")


def _advice(where: str) -> str:
    if where.startswith(ServerState.RUNNING):
        return (
            "It ran, so its bootstrap or its agent failed: look at the console of a machine of "
            "this queue (Scaleway, Instances, Console), or at /var/log/cloud-init-output.log there"
        )
    return "It never ran: Scaleway had not started it by then"


def _why(status: TaskStatus, reason: str, output: str) -> str:
    if status is TaskStatus.COMPLETED:
        return "the task completed, but nothing of nvidia-smi is on its console"
    said = f" ({reason})" if reason else ""
    return f"the task {status}{said}{'; its console is above' if output else ''}"


def _between_markers(console: str) -> str:
    _, begin, rest = console.partition(f"{BEGIN}\n")
    output, end, _ = rest.partition(END)
    return output if begin and end else ""


def _last_lines(console: str) -> str:
    return "\n".join(console.splitlines()[-LAST_LINES:])
