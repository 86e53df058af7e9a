"""Exactly the Scaleway GPU instances that ClearML queues need, and not a minute more."""

from importlib.metadata import version

__version__ = version("clearml-gpu-autoscaler")
