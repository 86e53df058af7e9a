from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_autoscaler.config.load import load_config, parse_config
from gpu_autoscaler.config.models import Config, VolumeConfig
from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.policy.hours import in_force, note

PROJECT = "11111111-2222-3333-4444-555555555555"
HEAD = f"fleet: lab\nscaleway: {{project_id: {PROJECT}}}\n"
QUEUE = "queues:\n  train:\n    placements: [{type: H100-1-80G, zone: fr-par-2}]\n"


def load(text: str | bytes, env: Mapping[str, str] | None = None) -> Config:
    content = text.encode() if isinstance(text, str) else text
    return parse_config(content, "c.yaml", env or {})


def problems(text: str | bytes, env: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, env)
    assert str(caught.value).splitlines() == [str(p) for p in caught.value.problems]
    return [str(problem) for problem in caught.value.problems]


def table(name: str) -> list[tuple[str, str]]:
    """Pairs of what is written and what is said about it, from a file beside this one."""
    blocks = (Path(__file__).parent / name).read_text(encoding="utf-8").strip().split("\n\n")[1:]
    pairs = [block.split("\n> ") for block in blocks]
    return [(written, said) for written, said in pairs]


def test_defaults_are_merged_under_each_queue() -> None:
    config = load(
        HEAD
        + """
defaults:
  idle_timeout: 1h
  volume: {size: 500GB, iops: 15000}
  agent: {packages: [git, vim], environment: {A: "1", B: "2"}}
  placements: [{type: L4-1-24G, zone: fr-par-1}]
queues:
  own:
    idle_timeout: 5m
    volume: {size: 125GB}
    agent: {packages: [htop], environment: {B: "3"}}
    placements: [{type: H100-1-80G, zone: fr-par-2}]
  plain:
"""
    )
    own, plain = config.queues["own"], config.queues["plain"]
    assert (own.name, plain.name) == ("own", "plain")
    assert (own.idle_timeout, plain.idle_timeout) == (timedelta(minutes=5), timedelta(hours=1))
    assert own.volume == VolumeConfig(size=125 * 10**9, iops=15000)
    assert own.agent.packages == ("htop",)
    assert own.agent.environment == {"A": "1", "B": "3"}
    assert plain.agent.environment == {"A": "1", "B": "2"}
    assert own.placements == (Placement("H100-1-80G", "fr-par-2"),)
    assert plain.placements == (Placement("L4-1-24G", "fr-par-1"),)
    assert list(config.queues) == ["own", "plain"]


def test_an_empty_value_takes_back_an_optional_default() -> None:
    queue = load(
        HEAD
        + "defaults: {idle_timeout_after_success: 5m}\n"
        + QUEUE
        + "    idle_timeout_after_success:\n"
    ).queues["train"]
    assert queue.idle_timeout_after_success is None


def test_text_means_what_its_setting_says_not_what_yaml_1_1_says() -> None:
    config = load(
        HEAD
        + "defaults: {placements: [{type: H100-1-80G, zone: fr-par-2}]}\n"
        + "queues:\n  12:34:\n    agent: {version: 3.10, docker: off, environment: {ON: yes}}\n"
        + "  123:\n    max_instances: 1_000\n"
    )
    agent = config.queues["12:34"].agent
    assert (agent.version, agent.docker, agent.environment) == ("3.10", False, {"ON": "yes"})
    assert config.queues["123"].max_instances == 1000


def test_variables_are_expanded_in_values() -> None:
    env = {"FLEET": "x: {y: z}", "EMPTY": ""}
    config = load(
        "fleet: ${FLEET}\nstate_dir: a-$${B}-${C:-d}-$E\nmax_instances: ${EMPTY:-7}\n"
        f"max_eur_per_hour: ${{EMPTY:-}}\nscaleway: {{project_id: '${{P:-{PROJECT}}}'}}\n" + QUEUE,
        env,
    )
    assert config.fleet == "x: {y: z}"
    assert config.state_dir == "a-${B}-d-$E"
    assert (config.max_instances, config.max_eur_per_hour) == (7, None)
    assert config.scaleway.project_id == PROJECT


def test_scripts_keep_their_own_variables() -> None:
    script = "    agent:\n      extra_script: |\n        echo ${HOME} $${X}\n"
    assert load(HEAD + QUEUE + script).queues["train"].agent.extra_script == "echo ${HOME} $${X}\n"


def with_mistake(line: str) -> str:
    """The smallest good file with one key replaced, or added in line 3."""
    key = line.split(":", 1)[0]
    lines = HEAD.splitlines()
    if key in ("fleet", "scaleway"):
        lines[("fleet", "scaleway").index(key)] = line
    else:
        lines.append(line)
    return "\n".join(lines) + "\n" + ("" if key == "queues" else QUEUE)


@pytest.mark.parametrize(("line", "message"), table("mistakes_in_a_file.txt"))
def test_a_mistake_is_named_with_line_and_key(line: str, message: str) -> None:
    assert problems(with_mistake(line)) == [f"c.yaml:{message}"]


CHANNEL = "notifications:\n- url: ${NOTIFY}\n"


@pytest.mark.parametrize(
    "url", ["hunter2", "hunter2://x", "https://hunter2.org/", "json://", "json://a, json://hunter2"]
)
def test_a_channel_that_is_not_understood_is_named_and_not_quoted(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = problems(HEAD + CHANNEL + QUEUE, {"NOTIFY": url})
    what = "not a URL that apprise understands, such as mailto://user:pass@host"
    assert said == [f"c.yaml:4: notifications[0].url: {what}"]
    assert capfd.readouterr() == ("", "")


def test_channels_are_read_and_keep_their_urls_to_themselves() -> None:
    text = f"{HEAD}{CHANNEL}  min_severity: error\n- url: ${{TEAM}}\n{QUEUE}"
    env = {"NOTIFY": "json://127.0.0.1/hunter2", "TEAM": "json://127.0.0.1/hunter3"}
    config = load(text, env)
    assert [channel.url for channel in config.notifications] == list(env.values())
    assert [channel.min_severity for channel in config.notifications] == ["error", "info"]
    assert "hunter" not in f"{config!r} {config} {config.notifications!r}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "  min_severity: loud",
            "5: notifications[0].min_severity: 'loud': expected 'info', 'warning' or 'error'",
        ),
        (
            "  min_severty: info",
            "5: notifications[0].min_severty: unknown key; did you mean min_severity?",
        ),
        (
            "- url: ${NOTIFY}",
            "3: notifications: a url is listed twice: everything would be told twice there",
        ),
    ],
)
def test_a_mistake_in_a_channel(more: str, message: str) -> None:
    env = {"NOTIFY": "json://127.0.0.1/hunter2"}
    assert problems(f"{HEAD}{CHANNEL}{more}\n{QUEUE}", env) == [f"c.yaml:{message}"]


@pytest.mark.parametrize(("mistake", "message"), table("mistakes_in_a_queue.txt"))
def test_a_mistake_in_a_queue_is_named_with_line_and_key(mistake: str, message: str) -> None:
    text = HEAD + QUEUE + "".join(f"    {line}\n" for line in mistake.splitlines())
    env = {"GPU_AUTOSCALER_SCALEWAY_SECRET_KEY": "hunter2"}
    assert problems(text, env) == [f"c.yaml:{message}"]


OTHER = "{type: L4-1-24G, zone: fr-par-1"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("{tpe: H100-1-80G, zone: fr-par-2}", "[1].tpe: unknown key; did you mean type?"),
        ("{type: H100-1-80G}", "[1].zone: is required"),
        ("{type: h100, zone: fr-par-2}", "[1].type: 'h100': a type looks like H100-1-80G"),
        ("{type: L4-1-24G, zone: fr-par}", "[1].zone: 'fr-par': a zone looks like fr-par-2"),
        (
            "H100-1-80G",
            "[1]: 'H100-1-80G': expected keys with values: type, zone, image, volume, scratch, "
            "max_price_per_hour",
        ),
        (f"{OTHER}, max_price_per_hour: 0}}", "[1].max_price_per_hour: '0': must be above 0"),
        (
            f"{OTHER}, max_price_per_hour: .nan}}",
            "[1].max_price_per_hour: '.nan': expected a number",
        ),
        (f"{OTHER}, image: a b}}", "[1].image: 'a b': a label looks like ubuntu_jammy_gpu_os_12"),
        (f"{OTHER}, volume: 300GB}}", "[1].volume: '300GB': expected keys with values: size, iops"),
        (
            f"{OTHER}, volume: {{size: 9GB}}}}",
            "[1].volume.size: '9GB': a root volume has 20GB to 10TB (125GB or more for GPU images)",
        ),
        (
            f"{OTHER}, scratch: 1}}",
            "[1].scratch: '1': a size needs a unit, such as 200GB or 200GiB",
        ),
        (
            f"{OTHER}, price: 3}}",
            "[1].price: unknown key; allowed here: type, zone, image, volume, "
            "scratch, max_price_per_hour",
        ),
        ("{type: H100-1-80G, zone: fr-par-2}", ": H100-1-80G in fr-par-2 is listed twice"),
    ],
)
def test_a_mistake_in_a_placement(item: str, message: str) -> None:
    first = "{type: H100-1-80G, zone: fr-par-2}"
    text = f"{HEAD}queues:\n  train:\n    placements:\n    - {first}\n    - {item}\n"
    line = 5 if message.startswith(":") else 7
    assert problems(text) == [f"c.yaml:{line}: queues.train.placements{message}"]


def test_a_misspelt_section_is_one_mistake() -> None:
    assert problems(HEAD.replace("scaleway", "scalway") + QUEUE) == [
        "c.yaml:2: scalway: unknown key; did you mean scaleway?"
    ]
    assert problems("fleet: lab\n" + QUEUE) == [
        "c.yaml:1: scaleway: is required: with project_id, "
        "unless the scw configuration file has a default_project_id"
    ]
    assert problems(HEAD + QUEUE.replace("queues", "queue")) == [
        "c.yaml:3: queue: unknown key; did you mean queues?"
    ]


PLACE = "[{type: H100-1-80G, zone: fr-par-2}]\n"


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file() -> None:
    text = """\
fleet: lab
poll_interval: 30
scaleway: {project_id: "${MISSING}"}
defaults:
  idel_timeout: 30m
queues:
  one:
    placements: [{type: H100-1-80G, zone: fr-par-2}]
    max_instances: two
  "my queue":
    volume: {size: 200}
"""
    assert problems(text) == [
        "c.yaml:2: poll_interval: '30': a duration needs a unit, such as 30s or 30m",
        "c.yaml:3: scaleway.project_id: the environment variable MISSING is not set; "
        "set it or write ${MISSING:-default}",
        "c.yaml:5: defaults.idel_timeout: unknown key; did you mean idle_timeout?",
        "c.yaml:9: queues.one.max_instances: 'two': expected a whole number",
        "c.yaml:10: queues['my queue'].placements: is required: a list of at least one "
        "{type: ..., zone: ...}",
        "c.yaml:11: queues['my queue'].volume.size: '200': a size needs a unit, "
        "such as 200GB or 200GiB",
    ]


def test_a_mistake_in_the_defaults_is_named_once_also_when_every_queue_overrides_it() -> None:
    text = HEAD + "defaults: {idle_timeout: soon}\n" + QUEUE
    expected = [
        "c.yaml:3: defaults.idle_timeout: 'soon': not a duration: "
        "write it like 90s, 30m, 1h30m or 2d"
    ]
    assert problems(text) == expected
    assert problems(text + "    idle_timeout: 1m\n") == expected


def test_a_list_belongs_to_whoever_wrote_it() -> None:
    good = "defaults: {placements: [{type: L4-1-24G, zone: fr-par-1}]}\n"
    assert problems(HEAD + good + QUEUE.replace(", zone: fr-par-2", "")) == [
        "c.yaml:6: queues.train.placements[0].zone: is required"
    ]


def test_bounds_may_be_split_between_defaults_and_queue() -> None:
    config = load(HEAD + "defaults: {min_instances: 3}\n" + QUEUE + "    max_instances: 4\n")
    assert config.queues["train"].min_instances == 3


def test_the_fleet_must_have_room_for_what_is_always_kept() -> None:
    assert problems(HEAD + "max_instances: 1\n" + QUEUE + "    min_instances: 2\n") == [
        "c.yaml:4: queues: min_instances add up to 2, above the fleet's max_instances (1)"
    ]


def hours(begin: str, to: str, zone: str = "Europe/Paris") -> str:
    window = f'{{days: mon-fri, from: "{begin}", to: "{to}", min_instances: 2}}'
    return f"working_hours: {{timezone: {zone}, windows: [{window}]}}"


def shifts(first: str, second: str) -> str:
    other = QUEUE.replace("queues:\n", "").replace("train", "other")
    return f"{HEAD}max_instances: 3\n{QUEUE}    {first}\n{other}    {second}\n"


def test_the_fleet_needs_room_for_what_is_kept_at_once() -> None:
    """One that keeps machines by day and one that does by night share them."""
    load(shifts(hours("08:00", "20:00"), hours("20:00", "08:00")))
    both = "c.yaml:4: queues: min_instances add up to 4, above the fleet's max_instances (3)"
    assert problems(shifts(hours("08:00", "20:00"), hours("19:59", "20:01"))) == [both]
    # time zones move against each other during the year
    assert problems(shifts(hours("08:00", "10:00"), hours("18:00", "20:00", "UTC"))) == [both]


def test_windows_of_the_defaults_are_held_against_each_queue() -> None:
    window = '{days: mon, from: "08:00", to: "19:00", min_instances: 3}'
    shared = f"defaults: {{working_hours: {{windows: [{window}]}}}}\n"
    load(HEAD + shared + QUEUE + "    max_instances: 5\n")
    assert problems(HEAD + shared + QUEUE) == [
        "c.yaml:5: queues.train.working_hours: "
        "in mon 08:00-19:00, max_instances (2) is below min_instances (3)"
    ]


def test_the_defaults_may_name_the_time_zone_alone() -> None:
    zone = "defaults: {working_hours: {timezone: Europe/Paris}}\n"
    window = "{days: mon, from: 08:00, to: 19:00, min_instances: 1}"
    own = f"    working_hours: {{windows: [{window}]}}\n"
    config = load(HEAD + zone + QUEUE + own + "  other:\n    placements: " + PLACE)
    theirs = config.queues["train"].working_hours
    assert theirs is not None
    assert (theirs.timezone, len(theirs.windows)) == ("Europe/Paris", 1)
    monday = datetime(2026, 9, 7, 8, tzinfo=UTC)
    assert in_force(config, monday).queues["other"] == config.queues["other"]
    assert note(config.queues["other"], monday) == ""


def test_a_queue_may_do_without_the_hours_of_the_defaults() -> None:
    shared = f"defaults: {{{hours('08:00', '20:00')}}}\n"
    assert load(HEAD + shared + QUEUE).queues["train"].working_hours is not None
    assert (
        load(HEAD + shared + QUEUE + "    working_hours:\n").queues["train"].working_hours is None
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty"),
        (b"# nothing\n", " is empty"),
        (b"- a\n", "1: expected keys with values, as in fleet: x"),
        (b"fleet: x\nqueues:\n\ttrain: 1\n", "3: tabs do not indent in YAML; use spaces"),
        (b"a: b\nfleet: \xe9\n", "2: is not UTF-8 text"),
        (b"a: b\nfleet: \x07\n", "2: control character #x07 is not allowed"),
        (b"fleet: a: b\n", "1: not valid YAML: mapping values are not allowed here"),
        (b"fleet: *x\n", "1: not valid YAML: found undefined alias 'x'"),
        (
            b'a: 1\nfleet: "x\n\n',
            "4: not valid YAML: while scanning a quoted scalar: "
            "found unexpected end of stream (it began in line 2)",
        ),
        (
            b"a: {b: ${C}}\n",
            "1: not valid YAML: while parsing a flow mapping: expected ',' or '}', but got '{' "
            "(it began in line 1) (inside { } or [ ], quote a value that holds ${...})",
        ),
        (b"a: " + b"[" * 30 + b"]" * 30, "1: unfolds to more than 20000 values or 20 levels"),
        (b"a: &a [*a]\n", "1: unfolds to more than 20000 values or 20 levels"),
        (b"[" * 9000, "1: is nested deeper than 20 levels"),
    ],
)
def test_a_file_that_is_no_configuration(content: bytes, message: str) -> None:
    assert problems(content) == [f"c.yaml:{message}"]


def test_aliases_do_not_explode() -> None:
    rows = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "unfolds to more than 20000 values" in problems("\n".join(rows))[0]


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert load("\ufeff" + HEAD + QUEUE).fleet == "lab"


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 300_000)
    for path, said in [
        (tmp_path / "none.yaml", "cannot be read: no such file or directory"),
        (tmp_path, "is not a file"),
        (large, "is larger than 262144 bytes"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        assert str(caught.value) == f"{path}: {said}"


def test_what_is_not_written_comes_from_the_tools_of_this_machine(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    (tmp_path / "clearml.conf").write_text('api { api_server: "http://box:8008" }')
    scw = tmp_path / ".config" / "scw" / "config.yaml"
    scw.parent.mkdir(parents=True)
    scw.write_text(f"default_project_id: {PROJECT}\n")
    config = load("fleet: lab\n" + QUEUE, env)
    assert config.scaleway.project_id == PROJECT
    assert config.clearml.web_host == "http://box:8080"
    written = load("clearml: {api_host: 'https://api.lab.org'}\n" + HEAD + QUEUE, env)
    assert written.clearml.api_host == "https://api.lab.org"


def test_a_mistake_in_a_tool_of_this_machine_is_named_there(tmp_path: Path) -> None:
    env = {
        "CLEARML_CONFIG_FILE": str(tmp_path / "c.conf"),
        "SCW_CONFIG_PATH": str(tmp_path / "s.yaml"),
    }
    (tmp_path / "c.conf").write_text("api { secret_key = hunter2")
    (tmp_path / "s.yaml").write_text("default_project_id: lab\n")
    assert problems("fleet: lab\n" + QUEUE, env) == [
        f"{tmp_path}/c.conf: cannot be read as HOCON",
        f"{tmp_path}/s.yaml: scaleway.project_id: 'lab': expected a UUID",
    ]


KEYS = st.sampled_from(
    [
        "fleet",
        "queues",
        "defaults",
        "train",
        "clearml",
        "scaleway",
        "placements",
        "type",
        "zone",
        "volume",
        "size",
        "agent",
        "environment",
        "packages",
        "project_id",
        "api_host",
        "idle_timeout",
        "max_instances",
        "HF_TOKEN",
        "<<",
        "name",
    ]
)
TEXTS = st.none() | st.sampled_from(["", "30m", "5", "200GB", "${X}", "x@y", "off", PROJECT])
TREES = st.recursive(
    TEXTS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=5)
)


@given(st.dictionaries(KEYS, TREES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_yaml_is_a_configuration_or_a_list_of_problems(tree: dict[str, object]) -> None:
    with suppress(ConfigError):
        load(yaml.safe_dump(tree))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_configuration_or_a_list_of_problems(content: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        load(content)
    assert caught.value.problems
