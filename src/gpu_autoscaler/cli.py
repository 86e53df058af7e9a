"""The command line: one function per command, its options and its help; no logic."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gpu_autoscaler.commands import ask as asking
from gpu_autoscaler.commands import check as checking
from gpu_autoscaler.commands import check_boot as booting
from gpu_autoscaler.commands import cost as costing
from gpu_autoscaler.commands import demo as showing
from gpu_autoscaler.commands import down as taking_down
from gpu_autoscaler.commands import emulate as emulating
from gpu_autoscaler.commands import findings as reporting
from gpu_autoscaler.commands import notify as notifying
from gpu_autoscaler.commands import plan as planning
from gpu_autoscaler.commands import render as rendering
from gpu_autoscaler.commands import run as running
from gpu_autoscaler.commands import simulate as simulating
from gpu_autoscaler.commands.terminal import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    UrlOption,
    asker_at,
    confirming,
    err,
    finish,
    known_queue,
    lease_age,
    out,
    refused,
    set_up,
    try_setup,
)
from gpu_autoscaler.config.load import ConfigError
from gpu_autoscaler.reports.period import parse_period
from gpu_autoscaler.reports.report import By
from gpu_autoscaler.runtime.clock import RandomIds, SystemClock
from gpu_autoscaler.runtime.logs import configure_logs
from gpu_autoscaler.simulation.faults import Level
from gpu_autoscaler.simulation.workload import WorkloadError

app = typer.Typer(
    name="gpu-autoscaler",
    help="Exactly the Scaleway GPU instances that your ClearML queues need, and not a minute more.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
notify = typer.Typer(
    help="The channels on which people are told what is wrong.",
    epilog="Example: gpu-autoscaler notify test --config config/queues.yaml",
    no_args_is_help=True,
)
app.add_typer(notify, name="notify")


@app.command(epilog="Example: gpu-autoscaler run --config config/queues.yaml --dry-run")
def run(
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the real services, change nothing, say what.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="One cycle, then exit with 0 or 1.")] = False,
    if_lease_older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="With --once: act as the daemon would, but only when no daemon has written its "
            "memory for so long (10m). Shorter than the time between two such runs.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(envvar="PORT", help="Where /healthz answers.", min=0, max=65535)
    ] = 8080,
) -> None:
    """The daemon: watch the queues, and create, start, stop and delete instances."""
    older_than = None
    if if_lease_older_than is not None:
        older_than = lease_age(if_lease_older_than, alone=once and not dry_run)
    setup = set_up(config)
    configure_logs(setup.secrets.values())
    finish(
        running.run(
            setup,
            SystemClock(),
            dry_run=dry_run,
            once=once,
            port=port,
            if_lease_older_than=older_than,
        )
    )


@app.command(epilog="Example: gpu-autoscaler plan --config config/queues.yaml")
def plan(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """What one cycle would do now, as a table with reasons; changes nothing."""
    setup = set_up(config)
    configure_logs(setup.secrets.values())
    finish(planning.plan(setup, SystemClock(), out, as_json=as_json))


@app.command(
    epilog="Example: gpu-autoscaler explain 'train resnet' --url https://autoscaler.example"
)
def explain(
    name: Annotated[str, typer.Argument(help="A task's id or name, an instance, or a queue.")],
    url: UrlOption = asking.DEFAULT_URL,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Why a task waits, why an instance is on, why nothing is done for a queue."""
    asker = asker_at(url, config)
    finish(asker.explain(name, out, as_json=as_json))


@app.command(epilog="Example: gpu-autoscaler status --watch")
def status(
    url: UrlOption = asking.DEFAULT_URL,
    config: ConfigOption = DEFAULT_CONFIG,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Queues, instances, money, and what was decided lately."""
    if watch and as_json:
        raise typer.BadParameter("--watch is for people: leave out --json")
    asker = asker_at(url, config)
    finish(asker.status(out, watch=watch, as_json=as_json))


@app.command(epilog="Example: gpu-autoscaler cost --since 2026-11 --by user --format csv")
def cost(
    config: ConfigOption = DEFAULT_CONFIG,
    since: Annotated[
        str,
        typer.Option(
            metavar="PERIOD",
            help="today, week, month, last-week, last-month, 7d, 2026-11, 2026-11-03, "
            "2026-11-01..2026-11-15 (UTC).",
        ),
    ] = "month",
    by: Annotated[By, typer.Option(help="What a row stands for.")] = By.QUEUE,
    format_: Annotated[
        costing.Format, typer.Option("--format", help="csv and json have every row.")
    ] = costing.Format.TABLE,
    always_on: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=10_000,
            help="Saved is against N machines of the most used type; without it, against as many "
            "of each type as ever worked at once.",
        ),
    ] = None,
) -> None:
    """What was spent, on what, and what always-on machines would have cost."""
    clock = SystemClock()
    try:
        period = parse_period(since, clock.now())
    except ValueError as error:
        raise typer.BadParameter(f"--since {since!r}: {error}") from None
    configure_logs((), level=logging.CRITICAL)
    try:
        sources = costing.open_sources(config, os.environ)
    except ConfigError as error:
        raise refused(error) from None
    finish(costing.cost(sources, period, clock, out, by=by, format_=format_, always_on=always_on))


@app.command(epilog="Example: gpu-autoscaler check --config config/queues.yaml --online")
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    online: Annotated[
        bool, typer.Option("--online", help="Also ask both services, and try the bucket.")
    ] = False,
    boot: Annotated[
        str | None,
        typer.Option(
            metavar="QUEUE",
            help="Boot one real instance as QUEUE would, run nvidia-smi on it, remove all of it. "
            "Says what that costs, and asks.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --boot: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Every mistake in the configuration, with file, line and key."""
    if boot is not None and online:
        raise typer.BadParameter("say either --online or --boot")
    if boot is not None and as_json and not yes:
        raise typer.BadParameter("--boot asks: with --json, say --yes")
    setup = try_setup(config) if as_json else set_up(config)
    if isinstance(setup, ConfigError):
        sys.stdout.write(reporting.as_json(checking.of_problems(setup)))
        raise typer.Exit(1)
    configure_logs(setup.secrets.values())
    if boot is None:
        finish(checking.check(setup, SystemClock(), out, online=online, json_only=as_json))
        return
    known_queue(setup, config, boot)
    console = err if as_json else out
    json_to = sys.stdout if as_json else None
    confirm = confirming(console, yes=yes)
    finish(
        booting.check_boot(
            setup, boot, SystemClock(), RandomIds(), console, confirm=confirm, json_to=json_to
        )
    )


@app.command(epilog="Example: gpu-autoscaler render H100-2-80G --config config/queues.yaml")
def render(
    queue: Annotated[str, typer.Argument(help="A queue of the configuration.")],
    config: ConfigOption = DEFAULT_CONFIG,
    unmask: Annotated[
        bool, typer.Option("--unmask", help="With the secrets. Mind where the output goes.")
    ] = False,
) -> None:
    """The cloud-init script an instance of QUEUE would get, secrets masked."""
    setup = set_up(config)
    known_queue(setup, config, queue)
    sys.stdout.write(rendering.render(setup, queue, unmask=unmask))


@app.command(epilog="Example: gpu-autoscaler down --idle --yes")
def down(
    config: ConfigOption = DEFAULT_CONFIG,
    idle: Annotated[bool, typer.Option("--idle", help="Power off what idles.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove every machine with its volumes, busy ones too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop or remove the fleet's machines, after a confirmation that names them."""
    if idle == everything:
        raise typer.BadParameter("say either --idle or --all")
    setup = set_up(config)
    configure_logs(setup.secrets.values())
    confirm = confirming(out, yes=yes)
    finish(taking_down.down(setup, SystemClock(), out, everything=everything, confirm=confirm))


@notify.command(
    name="test", epilog="Example: gpu-autoscaler notify test --config config/queues.yaml"
)
def notify_test(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """One message to every channel, and which of them took it; exit 1 if one did not."""
    setup = set_up(config)
    configure_logs(setup.secrets.values())
    finish(notifying.notify_test(setup, out, as_json=as_json))


@app.command(epilog="Example: gpu-autoscaler demo --speed 20000")
def demo(
    as_json: JsonOption = False,
    speed: Annotated[
        float, typer.Option(help="Simulated seconds per second, at most.", min=1, max=1e9)
    ] = showing.DEFAULT_SPEED,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only say where the page is.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Leave configuration, memory and ledger in this new directory, to be asked by "
            "`gpu-autoscaler cost`.",
        ),
    ] = None,
) -> None:
    """Two simulated days on this machine: both services, the daemon, a sample workload."""
    configure_logs((), level=logging.CRITICAL)
    browser = out.is_terminal and sys.stdin.isatty() and not no_browser
    try:
        summary = showing.demo(speed, None if as_json else out, browser=browser, keep=keep)
    except FileExistsError:
        raise typer.BadParameter(f"--keep {keep}: it exists; name a new directory") from None
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    raise typer.Exit(0 if showing.succeeded(summary) else 1)


@app.command(epilog="Example: gpu-autoscaler simulate --seed 7 --days 1 --faults all --json")
def simulate(
    seed: Annotated[int, typer.Option(help="Everything is drawn from it.", min=0)] = 1,
    days: Annotated[
        float, typer.Option(help="Simulated days; parts of one too.", min=0.02, max=400)
    ] = 1.0,
    workload: Annotated[
        str,
        typer.Option(
            metavar="thesis|dense|FILE.csv",
            help="Long runs on weekdays; many short ones; or a trace of submission time, "
            "duration and queue.",
        ),
    ] = "thesis",
    faults: Annotated[Level, typer.Option(help="How much goes wrong.")] = Level.NONE,
    as_json: JsonOption = False,
) -> None:
    """The shipped loop in virtual time, under faults drawn from a seed; exit 1 if a rule broke."""
    configure_logs((), level=logging.CRITICAL)
    try:
        outcome = simulating.simulate(seed, days, workload, faults)
    except WorkloadError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        sys.stdout.write(json.dumps(outcome.to_json(), indent=2) + "\n")
    else:
        outcome.show(out)
    raise typer.Exit(1 if outcome.violation else 0)


@app.command(epilog="Example: gpu-autoscaler emulate both --port 8008 --speed 60")
def emulate(
    service: Annotated[emulating.Service, typer.Argument(help="Which one, or both.")],
    port: Annotated[
        int,
        typer.Option(help="0: a free one; `both` takes the next one too.", min=0, max=65534),
    ] = 0,
    speed: Annotated[
        float, typer.Option(help="How much faster machines boot and tasks run.", min=1, max=1e6)
    ] = 1.0,
    agents: Annotated[
        bool, typer.Option("--agents", help="Booted machines run the real clearml-agent here.")
    ] = False,
) -> None:
    """An emulated ClearML or Scaleway over HTTP, to try things out against."""
    configure_logs(())
    finish(emulating.emulate(service, port, speed, out, agents=agents))


def main() -> None:
    """Entry point: errors of ours are sentences, never tracebacks."""
    app()
