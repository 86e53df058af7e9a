"""What happens to the world at random moments: people, machines, services, and the daemon itself.

Everything is drawn from the seed before the first moment passes, so that the same seed brings the
same day.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING

from gpu_autoscaler.config.models import AgentConfig, QueueConfig
from gpu_autoscaler.domain.model import KEEP_TAG, Availability, Placement, ServerState
from gpu_autoscaler.emulator.clearml_wire import RefusedError
from gpu_autoscaler.emulator.scaleway_errors import ScalewayError
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from gpu_autoscaler.simulation.daemon import Daemon

if TYPE_CHECKING:
    from gpu_autoscaler.simulation.world import World

HOUR = 3600.0
RESTART_AFTER = (1.0, 120.0)
"""Seconds until the platform starts a killed daemon again."""
OVERLAP = (5.0, 120.0)
"""Seconds for which two daemons run at a redeploy."""
LONGEST_PAUSE = 300.0
LONGEST_LAG = 30.0
WRONG_CLOCK = 600.0
"""Seconds that a clock is wrong by, at most."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that will happen."""

    at: float
    """Seconds after the start."""
    name: str
    """A method of `Chaos`."""


class Chaos:
    """Draws and carries out what happens to one world."""

    def __init__(self, world: "World", hours: float) -> None:
        self._world = world
        self._random = world.random("chaos")
        self._removed: dict[str, QueueConfig] = {}
        self._told_to_end: list[Daemon] = []
        self._event = ""
        self.events = self._drawn(hours)

    def _drawn(self, hours: float) -> list[Event]:
        events = []
        for field in fields(self._world.rates.hourly):
            rate, at = getattr(self._world.rates.hourly, field.name), 0.0
            while rate and (at := at + self._random.expovariate(rate) * HOUR) < hours * HOUR:
                events.append(Event(at, field.name))
        return sorted(events, key=lambda event: (event.at, event.name))

    async def run(self) -> None:
        """Until the last one has happened."""
        begun = self._world.clock.monotonic()
        for event in self.events:
            ahead = begun + event.at - self._world.clock.monotonic()
            if ahead > 0:
                await self._world.clock.sleep(ahead)
            self._event = event.name
            # what people and machines do may not be possible just then
            with contextlib.suppress(ScalewayError, RefusedError):
                if getattr(self, event.name)() is not False:
                    self._world.happened[event.name] += 1

    def end(self) -> None:
        """All is well again: services, clocks, stock; one daemon lives."""
        world = self._world
        world.calm_since = world.clock.now()
        world.down.clear()
        world.broken.clear()
        for server in world.servers():
            world.scaleway.update_server(server.zone, server.id, protected=False)
        self._bring_back()
        self._lift_budgets()
        for old in self._told_to_end:  # whom no later platform kills any more
            old.process.kill()
        world.scaleway.set_listing_lag(0)
        for placement in self._placements():
            world.scaleway.set_stock(placement, Availability.AVAILABLE)
            world.scaleway.set_quota(placement.commercial_type, None)
        for daemon in world.daemons:
            daemon.process.resume()
            daemon.clock.ahead = timedelta(0)
        if not any(daemon.lives for daemon in world.daemons):
            world.start_daemon()

    # --- the cloud

    def stock_changes(self) -> None:
        """A shelf is filled, or emptied; sometimes the probe does not know."""
        placement = self._random.choice(self._placements())
        shelves: list[int | Availability] = [0, 0, 1, 2, Availability.AVAILABLE]
        stock = self._random.choice(shelves)
        mode = self._random.choice(list(StockMode))
        told = self._random.choice([None, None, Availability.AVAILABLE, Availability.SHORTAGE])
        self._world.scaleway.set_stock(placement, stock, mode, told=told)
        self._say(f"stock of {placement}: {stock} ({mode}, told: {told})")

    def quota_changes(self) -> None:
        """One machine of a type, for a while."""
        kind = self._random.choice(self._placements()).commercial_type
        self._world.scaleway.set_quota(kind, 1, figures=self._random.random() < 0.5)
        self._later(0.5 * HOUR, lambda: self._world.scaleway.set_quota(kind, None))
        self._say(f"quota of {kind}: 1")

    def listing_lags(self) -> None:
        """Listings show the past, for some minutes."""
        self._world.scaleway.set_listing_lag(self._random.uniform(5, LONGEST_LAG))
        self._later(600, lambda: self._world.scaleway.set_listing_lag(0))

    def clearml_outage(self) -> None:
        """Up to an hour."""
        self._down("clearml", self._random.choice([120, 600, HOUR]))

    def scaleway_outage(self) -> None:
        """One zone, for minutes."""
        zone = self._random.choice(self._placements()).zone
        self._down(zone, self._random.uniform(60, 900))

    def store_outage(self) -> None:
        """Minutes."""
        self._down("store", self._random.uniform(30, 900))

    def permission_lost(self) -> None:
        """Of changes or of everything, or at ClearML; for a minute, an hour, or for good."""
        what = self._random.choice(["changes", "changes", "everything", "clearml key"])
        self._down(what, self._random.choice([60, 60, 600, HOUR, 24 * HOUR]))

    # --- people

    def person_stops(self) -> bool | None:
        """Somebody powers a machine off in the console."""
        stop = self._world.scaleway.person_stops
        return self._to_server(lambda server: stop(server.id), ServerState.RUNNING)

    def person_deletes(self) -> bool | None:
        """Somebody deletes one."""
        return self._to_server(
            lambda s: self._world.scaleway.person_deletes(s.id),
            ServerState.RUNNING,
            ServerState.STOPPED,
        )

    def person_starts(self) -> bool | None:
        """Somebody powers a stopped one on."""
        return self._to_server(
            lambda s: self._world.scaleway.person_starts(s.id), ServerState.STOPPED
        )

    def person_keeps(self) -> bool | None:
        """Somebody sets the `keep` tag, and takes it off later."""

        def keep(server: Server) -> None:
            if self._world.watch.was_kept(server):
                return  # a tag that went and came again unseen is one tag to a daemon
            model = self._world.scaleway
            model.update_server(server.zone, server.id, tags=(*server.tags, KEEP_TAG))
            self._world.watch.kept(server)
            self._later(self._random.uniform(300, HOUR), lambda: self._let_go(server.id))

        return self._to_server(keep, ServerState.RUNNING, ServerState.STOPPED)

    def _let_go(self, server_id: str) -> None:
        for server in self._world.servers():
            if server.id == server_id:
                tags = tuple(tag for tag in server.tags if tag != KEEP_TAG)
                self._world.scaleway.update_server(server.zone, server_id, tags=tags)

    def person_protects(self) -> bool | None:
        """Somebody protects a machine, for a while."""

        def protect(server: Server) -> None:
            model = self._world.scaleway
            model.update_server(server.zone, server.id, protected=True)
            self._world.watch.protected(server)
            self._later(
                self._random.uniform(300, HOUR),
                lambda: model.update_server(server.zone, server.id, protected=False),
            )

        return self._to_server(protect, ServerState.RUNNING, ServerState.STOPPED)

    def boots_broken(self) -> None:
        """For an hour, machines of one placement boot in vain."""
        placement = self._random.choice(self._placements())
        self._world.broken[placement] = None
        self._say(f"{placement} boots in vain")
        self._later(HOUR, lambda: self._world.broken.pop(placement, None))

    def person_aborts(self) -> bool | None:
        """Somebody aborts a task."""
        tasks = self._world.clearml.tasks.all.values()
        open_ones = [task.id for task in tasks if task.status in ("queued", "in_progress")]
        if not open_ones:
            return False
        task_id = self._random.choice(open_ones)
        self._world.fates.aborted(task_id)
        self._world.clearml.abort(task_id)
        self._say(f"somebody aborts {task_id}")
        return None

    # --- machines

    def machine_dies(self) -> bool | None:
        """Its hypervisor does."""
        return self._to_server(lambda s: self._world.scaleway.crash(s.id), ServerState.RUNNING)

    def machine_stands_by(self) -> bool | None:
        """The guest powers itself down."""
        return self._to_server(lambda s: self._world.scaleway.standby(s.id), ServerState.RUNNING)

    def agent_dies(self) -> bool | None:
        """The agent's process ends without a word; its machine goes on."""
        agents = self._world.machines.agents

        def die(server: Server) -> None:
            if server.id in agents:
                agents[server.id].kill()

        return self._to_server(die, ServerState.RUNNING)

    def worker_vanishes(self) -> bool | None:
        """ClearML forgets one worker, until its next report."""
        entries = self._world.clearml.workers.alive()
        if not entries:
            return False
        self._world.clearml.workers.vanish(self._random.choice(entries).id)
        return None

    def workers_vanish(self) -> None:
        """ClearML forgets all of them."""
        self._world.clearml.workers.vanish(None)

    # --- the daemon

    def daemon_killed(self) -> bool | None:
        """SIGKILL; the platform starts it again."""
        daemon = self._living()
        if daemon is None:
            return False
        daemon.process.kill()
        self._say(f"{daemon.name} is killed")
        self._later(self._random.uniform(*RESTART_AFTER), self._start)
        return None

    def memory_lost(self) -> bool | None:
        """The same, and nothing is left of what it knew."""
        if self.daemon_killed() is False:
            return False
        for other in self._world.daemons:
            other.process.kill()
        self._world.forget()
        self._say("memory is lost")
        return None

    def daemon_paused(self) -> bool | None:
        """The machine under it stands still."""
        daemon = self._living()
        if daemon is None:
            return False
        daemon.process.pause()
        self._say(f"{daemon.name} stands still")
        self._later(self._random.uniform(20, LONGEST_PAUSE), daemon.process.resume)
        return None

    def redeployed(self) -> bool | None:
        """A new version starts, then the old one is told to end."""
        old = self._living()
        if old is None:
            return False

        def end() -> None:
            old.loop.stop()
            self._told_to_end.append(old)
            self._say(f"{old.name} is told to end")
            if not self._world.with_lease:
                self._later(31.0, self._start)

        if self._world.with_lease:
            self._start(self._wrong())
        self._later(self._random.uniform(*OVERLAP), end)
        # platforms do not wait for ever
        self._later(OVERLAP[1] + 31.0, old.process.kill)
        return None

    def clock_jumps(self) -> bool | None:
        """The daemon's wall clock is set, rightly or not."""
        daemon = self._living()
        if daemon is None:
            return False
        daemon.clock.ahead = self._wrong()
        self._say(f"{daemon.name}'s clock is wrong by {daemon.clock.ahead}")
        return None

    def config_edited(self) -> None:
        """Somebody changes bounds, timeouts or the image of a queue."""
        config = self._world.config
        name = self._random.choice(sorted(config.queues))
        queue = config.queues[name]
        change: dict[str, object] = self._random.choice(
            [
                {"max_instances": max(1, queue.min_instances, self._random.randint(1, 3))},
                {"idle_timeout": timedelta(minutes=self._random.randint(3, 8))},
                {"agent": AgentConfig(version=f"3.0.{self._random.randint(1, 3)}")},
                {"idle_action": self._random.choice(["stop", "delete"])},
            ]
        )
        edited = queue.model_copy(update=change)
        self._world.edit(config.model_copy(update={"queues": {**config.queues, name: edited}}))
        self._say(f"{name} is configured: {change}")

    def queue_removed(self) -> bool | None:
        """A queue leaves the configuration, and comes back half an hour later."""
        config = self._world.config
        if len(config.queues) < 2:
            return False
        name = self._random.choice(sorted(config.queues))
        queues = {key: queue for key, queue in config.queues.items() if key != name}
        self._removed[name] = config.queues[name]
        self._world.edit(config.model_copy(update={"queues": queues}))
        self._say(f"{name} leaves the configuration")
        self._later(0.5 * HOUR, self._bring_back)
        return None

    def _bring_back(self) -> None:
        config, removed = self._world.config, self._removed
        if removed:
            self._removed = {}
            self._world.edit(config.model_copy(update={"queues": {**config.queues, **removed}}))

    def _lift_budgets(self) -> None:
        """Somebody has more money."""
        config = self._world.config
        if config.budgets or any(queue.budgets for queue in config.queues.values()):
            queues = {k: q.model_copy(update={"budgets": ()}) for k, q in config.queues.items()}
            self._world.edit(config.model_copy(update={"budgets": (), "queues": queues}))

    # --- how

    def _placements(self) -> list[Placement]:
        found = {p for _, c in self._world.configs for q in c.queues.values() for p in q.placements}
        return sorted(found)

    def _living(self) -> Daemon | None:
        return next((d for d in reversed(self._world.daemons) if d.lives), None)

    def _start(self, ahead: timedelta = timedelta(0)) -> None:
        alone = not self._world.with_lease
        if alone and any(daemon.lives for daemon in self._world.daemons):
            return  # the directory's lock is taken
        self._world.start_daemon(ahead=ahead)

    def _wrong(self) -> timedelta:
        return timedelta(seconds=self._random.uniform(-WRONG_CLOCK, WRONG_CLOCK))

    def _to_server(self, deed: Callable[[Server], None], *states: ServerState) -> bool | None:
        found = [s for s in self._world.servers() if s.state in states]
        if not found:
            return False
        server = self._random.choice(found)
        self._say(f"{self._event.replace('_', ' ')}: {server.name}")
        deed(server)
        return None

    def _down(self, what: str, seconds: float) -> None:
        self._world.down[what] = None
        self._say(f"{what} is down for {seconds:.0f} s")
        self._later(seconds, lambda: self._world.down.pop(what, None))

    def _later(self, seconds: float, event: Callable[[], object]) -> None:
        def run() -> None:
            if not self._world.calm:
                with contextlib.suppress(ScalewayError, RefusedError):
                    event()

        self._world.call_later(seconds, run)

    def _say(self, what: str) -> None:
        self._world.watch.say(what)
