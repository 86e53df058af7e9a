"""Working hours: which bounds a queue has at a moment, and until when."""

from datetime import datetime

from gpu_autoscaler.config.models import Config, QueueConfig


def in_force(config: Config, now: datetime) -> Config:
    """The configuration as it is at this moment; the same one when no queue has working hours."""
    changed = {
        name: _at(queue, now)
        for name, queue in config.queues.items()
        if queue.working_hours is not None
    }
    if not changed:
        return config
    return config.model_copy(update={"queues": {**config.queues, **changed}})


def note(queue: QueueConfig, now: datetime) -> str:
    """Until when its bounds are what they are, for people; empty without working hours."""
    until = queue.working_hours.changes(now) if queue.working_hours else ""
    return f" (in force until {until})" if until else ""


def _at(queue: QueueConfig, now: datetime) -> QueueConfig:
    window = queue.working_hours.window(now) if queue.working_hours else None
    if window is None:
        return queue
    own = {
        "min_instances": window.min_instances,
        "max_instances": window.max_instances,
        "idle_timeout": window.idle_timeout,
    }
    own = {key: value for key, value in own.items() if value is not None}
    if window.idle_timeout is not None:
        own["idle_timeout_after_success"] = None
    return queue.model_copy(update=own)
