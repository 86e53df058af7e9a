"""Lines that machines can read, and in none of them a secret, wherever it hid."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from gpu_autoscaler.runtime.logs import MASK, SecretMask, configure_logs

SECRET = "s3cr3t-value"
LONGER = "s3cr3t-value-and-more"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """Standard logging as in a fresh process, put back afterwards."""
    logger = logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [])
    level, configured = logger.level, structlog.get_config()
    yield logger
    logger.setLevel(level)
    structlog.configure(**configured)


def configured(stream: io.StringIO, *secrets: str, level: int = logging.INFO) -> Any:
    configure_logs(secrets, stream=stream, level=level)
    return structlog.get_logger("test")


@dataclass
class Holder:
    """Something whose repr() says too much."""

    token: str


HIDDEN: dict[str, Any] = {
    "text": f"key={SECRET}",
    "list": ["x", SECRET],
    "tuple": ("x", SECRET),
    "set": {SECRET},
    "dict": {"deep": {"er": [SECRET]}},
    "key of a dict": {SECRET: 1},
    "bytes": f"user-data {SECRET}".encode(),
    "object": Holder(SECRET),
    "exception": ValueError(f"refused {SECRET}"),
    "class of strings": type("Text", (str,), {})(SECRET),
}


@pytest.mark.parametrize("value", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.usefixtures("root")
def test_a_secret_is_masked_wherever_it_hides(value: Any) -> None:
    stream = io.StringIO()
    configured(stream, SECRET).info("something", value=value)
    assert SECRET not in stream.getvalue()
    assert MASK in stream.getvalue()
    assert json.loads(stream.getvalue())["event"] == "something"


@pytest.mark.usefixtures("root")
def test_a_secret_in_the_event_itself_is_masked() -> None:
    stream = io.StringIO()
    configured(stream, SECRET).warning(f"got {SECRET}")
    assert json.loads(stream.getvalue())["event"] == f"got {MASK}"


def crash(log: Any) -> None:
    try:
        raise ValueError(f"refused {SECRET}")
    except ValueError:
        log.exception("crashed")


@pytest.mark.usefixtures("root")
def test_a_secret_in_a_traceback_is_masked() -> None:
    stream = io.StringIO()
    crash(configured(stream, SECRET))
    line = json.loads(stream.getvalue())
    assert SECRET not in stream.getvalue()
    assert "Traceback" in line["exception"]
    assert f"ValueError: refused {MASK}" in line["exception"]


@pytest.mark.usefixtures("root")
def test_a_secret_in_a_traceback_on_a_terminal_is_masked() -> None:
    stream = Terminal()
    crash(configured(stream, SECRET))
    assert "Traceback" in stream.getvalue()
    assert SECRET not in stream.getvalue()


@pytest.mark.usefixtures("root")
def test_a_terminal_gets_readable_lines_without_secrets() -> None:
    stream = Terminal()
    configured(stream, SECRET).info("something", value=SECRET)
    assert "something" in stream.getvalue()
    assert MASK in stream.getvalue()
    assert SECRET not in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


def test_the_longest_secret_is_masked_first() -> None:
    """Otherwise the rest of the longer one would stay."""
    for secrets in ([SECRET, LONGER], [LONGER, SECRET]):
        assert SecretMask(secrets).clean(f"{LONGER} {SECRET}") == f"{MASK} {MASK}"


@pytest.mark.parametrize("secret", ["", "abc"])
def test_what_is_too_short_to_be_a_secret_leaves_words_alone(secret: str) -> None:
    assert SecretMask([secret]).clean("abcdef") == "abcdef"


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "plain"])
def test_what_is_no_secret_stays_as_it_is(value: Any) -> None:
    assert SecretMask([SECRET]).clean(value) is value


@pytest.mark.usefixtures("root")
def test_every_line_is_one_json_object_with_time_and_level() -> None:
    stream = io.StringIO()
    log = configured(stream, SECRET)
    log.info("first", text="two\nlines", odd=Holder("x"), nothing=None, number=1.5)
    crash(log)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("first", "info"),
        ("crashed", "error"),
    ]
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert lines[0]["text"] == "two\nlines"


@pytest.mark.usefixtures("root")
def test_below_the_level_nothing_is_said() -> None:
    stream = io.StringIO()
    log = configured(stream, level=logging.CRITICAL)
    log.error("unheard")
    crash(log)
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("root")
def test_libraries_do_not_print_requests() -> None:
    stream = io.StringIO()
    configured(stream, SECRET)
    for name in ("httpx", "httpcore", "scaleway"):
        logging.getLogger(name).info("POST body %s", SECRET)
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("root")
def test_what_libraries_warn_of_is_masked_json_too() -> None:
    """asyncio logs a task's forgotten exception with its whole traceback."""
    stream = io.StringIO()
    configured(stream, SECRET)
    logging.getLogger("asyncio").error("Task exception was never retrieved: %s", SECRET)
    assert SECRET not in stream.getvalue()
    assert json.loads(stream.getvalue())
