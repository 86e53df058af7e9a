"""The loop: observe, decide, act, record. It knows ports, never an adapter."""
