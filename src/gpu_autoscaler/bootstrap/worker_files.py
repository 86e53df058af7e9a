"""What stands in the files of a worker, and the command line of its agent."""

import shlex
from collections.abc import Iterator

from gpu_autoscaler.bootstrap.quoting import environment_line, exec_word, hocon_string
from gpu_autoscaler.config.models import AgentConfig
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.config.services import ClearmlConfig


def clearml_conf(agent: AgentConfig, scratch: str, secrets: Secrets) -> str:
    """Content of /root/clearml.conf: HOCON that the agent merges over its own defaults.

    `scratch` is where the scratch disk is mounted, here and in every container; empty: nowhere.

    The api section is missing on purpose: the agent takes it from its environment. What the
    operator adds comes last, so it wins, and may refer to the keys above (`${sdk.aws.s3.key}`).
    """
    settings = {
        "agent.git_user": secrets.agent_git_user,
        "agent.git_pass": secrets.agent_git_password,
        "agent.default_docker.image": agent.docker_image,
        "sdk.aws.s3.key": secrets.agent_s3_access_key,
        "sdk.aws.s3.secret": secrets.agent_s3_secret_key,
    }
    lines = [f"{key}: {hocon_string(value)}" for key, value in settings.items() if value]
    if agent.docker_arguments:
        # A list: the agent would pass a string on to docker as one single argument.
        arguments = ", ".join(map(hocon_string, shlex.split(agent.docker_arguments)))
        lines.append(f"agent.default_docker.arguments: [{arguments}]")
    if scratch:
        lines.append(f'agent.extra_docker_arguments: ["-v", "{scratch}:{scratch}"]')
    # By default every task container installs OpenCV's libraries before it starts.
    lines.append("agent.docker_install_opencv_libs: false")
    return "\n".join([*lines, agent.extra_clearml_conf]).rstrip("\n")


def environment(
    instance_name: str, agent: AgentConfig, clearml: ClearmlConfig, secrets: Secrets
) -> str:
    """Content of /etc/clearml/environment, a systemd EnvironmentFile.

    Our variables come last: systemd takes the last assignment of a name.
    """
    variables = {
        **agent.environment,
        "CLEARML_API_HOST": clearml.api_host,
        "CLEARML_WEB_HOST": clearml.web_host,
        "CLEARML_FILES_HOST": clearml.files_host,
        "CLEARML_API_ACCESS_KEY": secrets.agent_clearml_access_key,
        "CLEARML_API_SECRET_KEY": secrets.agent_clearml_secret_key,
        "CLEARML_WORKER_ID": instance_name,
        "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": f"{agent.polling_interval.total_seconds():g}",
    }
    given = {name: value for name, value in variables.items() if value is not None}
    return "\n".join(environment_line(name, value) for name, value in given.items())


def agent_command(queue: str, agent: AgentConfig) -> str:
    """The ExecStart line of clearml-agent.service."""
    return " ".join(map(exec_word, _agent_arguments(queue, agent)))


def _agent_arguments(queue: str, agent: AgentConfig) -> Iterator[str]:
    yield "/root/clearml_agent_venv/bin/clearml-agent"
    yield from ("--config-file", "/root/clearml.conf", "daemon")
    if agent.docker:
        yield "--docker"
    yield "--create-queue"
    if queue.startswith(("-", "@")):
        # As a word of its own the agent would take it for an option, or a file of arguments.
        yield f"--queue={queue}"
    else:
        yield from ("--queue", queue)
    yield "--foreground"
