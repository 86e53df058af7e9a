"""What all commands share of the command line: options, consoles, settings, and how they end."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gpu_autoscaler.commands.ask import Asker
from gpu_autoscaler.commands.wiring import Setup, load_setup
from gpu_autoscaler.config.load import ConfigError
from gpu_autoscaler.config.secrets import api_token
from gpu_autoscaler.config.units import parse_duration
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.runtime.logs import configure_logs

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        envvar="GPU_AUTOSCALER_CONFIG",
        metavar="FILE|s3://BUCKET/KEY",
        help="The configuration: a YAML file, or such an object in object storage.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
UrlOption = Annotated[
    str,
    typer.Option(
        envvar="GPU_AUTOSCALER_URL",
        help="The running daemon; GPU_AUTOSCALER_API_TOKEN is its token.",
    ),
]
DEFAULT_CONFIG = "config/queues.yaml"


def asker_at(url: str, config: str) -> Asker:
    """Asks the running daemon; where none is, what is configured says it by itself."""
    try:
        token = api_token(os.environ)
    except ConfigError as error:
        raise typer.BadParameter(str(error.problems[0])) from None
    configure_logs((token,) if token else (), level=logging.CRITICAL)
    return Asker(url, token, lambda: set_up(config), SystemClock())


def lease_age(text: str, *, alone: bool) -> timedelta:
    """What --if-lease-older-than says. Raises typer.BadParameter."""
    option = "--if-lease-older-than"
    if not alone:
        raise typer.BadParameter(f"{option} goes with --once, and without --dry-run")
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from None
    if not duration:
        raise typer.BadParameter(f"{option}: longer than 0s, or leave it out")
    return duration


def known_queue(setup: Setup, config: str, queue: str) -> None:
    """Raises typer.BadParameter, with those there are, where it is none."""
    if queue not in setup.config.queues:
        known = ", ".join(setup.config.queues)
        raise typer.BadParameter(f"{config} has no queue {queue!r}; it has {known}")


def confirming(console: Console, *, yes: bool) -> Callable[[str], bool]:
    """Shows a question, and asks it unless `yes` answers it."""

    def confirm(question: str) -> bool:
        console.print(question, highlight=False)
        return yes or typer.confirm("Go on?")

    return confirm


def set_up(config: str) -> Setup:
    """What is configured; or its problems are printed, and it ends with 1."""
    setup = try_setup(config)
    if isinstance(setup, Setup):
        return setup
    raise refused(setup)


def refused(error: ConfigError) -> typer.Exit:
    """To be raised, once its problems are printed."""
    for problem in error.problems:
        err.print(f"[red]error:[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
    return typer.Exit(1)


def try_setup(config: str) -> Setup | ConfigError:
    """What is configured, or what is wrong with it."""
    try:
        return load_setup(config, os.environ)
    except ConfigError as error:
        return error


def finish(command: Coroutine[Any, Any, int]) -> None:
    """Run it, and end with its exit code; an OSError is a sentence and 1."""
    try:
        code = asyncio.run(_ended_by_sigterm(command))
    except OSError as error:
        said = escape(error.strerror or str(error))
        err.print(f"[red]error:[/] {said}", highlight=False, soft_wrap=True)
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except asyncio.CancelledError:
        code = 128 + signal.SIGTERM
    raise typer.Exit(code)


async def _ended_by_sigterm(command: Coroutine[Any, Any, int]) -> int:
    """Cancelled as Ctrl-C does it, so that it cleans up: CI jobs and systemd end with SIGTERM."""
    task = asyncio.ensure_future(command)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
