"""Puts the parts together: the only place that knows both the loop and the adapters."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from gpu_autoscaler.bootstrap.render import Bootstrap
from gpu_autoscaler.clearml.api import ClearmlApi, Credentials
from gpu_autoscaler.commands.reading import watcher_at
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.problems import ConfigError, Problem
from gpu_autoscaler.config.secrets import Secrets, load_secrets
from gpu_autoscaler.config.watch import ConfigWatcher
from gpu_autoscaler.domain.calls import OnCall, nobody
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.model import FleetTags
from gpu_autoscaler.runtime.books import Books
from gpu_autoscaler.runtime.execute import DryExecutor, Executor, LiveExecutor
from gpu_autoscaler.runtime.loop import ConfigSource, Cycle, Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.ports import Ledger, Store
from gpu_autoscaler.runtime.record import Recorder
from gpu_autoscaler.scaleway.api import ScalewayApi


@dataclass(frozen=True, slots=True)
class Setup:
    """A checked configuration with its secrets."""

    watcher: ConfigWatcher
    secrets: Secrets

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.watcher.current()


@dataclass(frozen=True, slots=True)
class Services:
    """The two services, reached."""

    clearml: ClearmlApi
    scaleway: ScalewayApi


def load_setup(place: str | Path, env: Mapping[str, str]) -> Setup:
    """Read configuration (see `watcher_at`) and secrets. Raises ConfigError with everything that
    is wrong in both."""
    problems: list[Problem] = []
    watcher = secrets = None
    try:
        secrets = load_secrets(env)
    except ConfigError as error:
        problems += error.problems
    try:
        watcher = watcher_at(str(place), env, secrets)
    except ConfigError as error:
        problems += error.problems
    if watcher is not None and secrets is not None:
        try:
            Bootstrap(watcher.current(), secrets)
        except ValueError as error:
            problems.append(Problem(str(place), None, "queues", str(error)))
    if problems or watcher is None or secrets is None:
        raise ConfigError(problems)
    return Setup(watcher, secrets)


@asynccontextmanager
async def open_services(
    config: Config,
    secrets: Secrets,
    clock: Clock,
    *,
    clearml_transport: httpx.AsyncBaseTransport | None = None,
    scaleway_transport: httpx.AsyncBaseTransport | None = None,
    on_call: OnCall = nobody,
    fleet: FleetTags | None = None,
) -> AsyncIterator[Services]:
    """Clients of both services; the transports stand in for the network where there is none.

    `on_call` hears of every request to either; `fleet` stands for that of the configuration.
    """
    async with AsyncExitStack() as stack:
        clearml = await stack.enter_async_context(
            ClearmlApi(
                config.clearml.api_host,
                Credentials(secrets.clearml_access_key, secrets.clearml_secret_key),
                clock,
                transport=clearml_transport,
                on_call=on_call,
            )
        )
        scaleway = await stack.enter_async_context(
            ScalewayApi(
                secrets.scaleway_secret_key,
                config.scaleway.project_id,
                fleet or FleetTags(config.fleet),
                clock,
                api_url=config.scaleway.api_url,
                transport=scaleway_transport,
                on_call=on_call,
            )
        )
        yield Services(clearml, scaleway)


def open_agents_clearml(
    config: Config,
    secrets: Secrets,
    clock: Clock,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> ClearmlApi:
    """ClearML through the key that instances get; to be closed by its `async with`."""
    credentials = Credentials(secrets.agent_clearml_access_key, secrets.agent_clearml_secret_key)
    return ClearmlApi(config.clearml.api_host, credentials, clock, transport=transport)


def build_loop(
    source: ConfigSource,
    secrets: Secrets,
    services: Services,
    store: Store,
    clock: Clock,
    *,
    dry_run: bool = False,
    on_cycle: Callable[[Cycle], None] = lambda _: None,
    ledger: Ledger | None = None,
) -> Loop:
    """A loop over these services; dry, it differs in its executor, and keeps no ledger."""
    loop: Loop | None = None

    def wake() -> None:
        if loop is not None:
            loop.wake()

    executor: Executor = DryExecutor()
    if not dry_run:
        executor = LiveExecutor(services.clearml, services.scaleway, clock, wake, store.lease_left)
    recorder = Recorder(dry_run=dry_run)
    books = None
    if ledger is not None and not dry_run:
        books = Books(ledger, services.clearml, clock, recorder)
    bootstrap_of: Callable[[Config], Bootstrap] = lambda config: Bootstrap(config, secrets)  # noqa: E731
    loop = Loop(
        source,
        Observer(services.clearml, services.scaleway, clock),
        executor,
        store,
        bootstrap_of,
        clock,
        recorder,
        on_cycle,
        books,
    )
    return loop
