"""The adapter for ClearML: the only room that knows its HTTP API."""
