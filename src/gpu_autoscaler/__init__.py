"""Exactly the Scaleway GPU instances that ClearML queues need, and not a minute more."""
