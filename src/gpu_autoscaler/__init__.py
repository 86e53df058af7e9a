"""Exactly the Scaleway GPU instances that ClearML queues need, and not a minute more."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("clearml-gpu-autoscaler")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "unknown"
