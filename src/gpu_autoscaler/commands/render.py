"""`render`: the cloud-init script an instance of a queue would get."""

from gpu_autoscaler.bootstrap.render import Bootstrap
from gpu_autoscaler.commands.wiring import Setup
from gpu_autoscaler.config.fields import slug


def render(setup: Setup, queue: str, *, unmask: bool) -> str:
    """The script for an instance whose name stands for any, at a placement without settings of its
    own. Raises KeyError: no such queue."""
    bootstrap = Bootstrap(setup.config, setup.secrets)
    name = f"{slug(queue)}-000000"
    if unmask:
        return bootstrap.user_data(queue, name).decode()
    return bootstrap.masked(queue, name)
