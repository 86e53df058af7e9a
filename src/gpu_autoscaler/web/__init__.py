"""What the daemon answers over HTTP, and whom it calls by itself: a heartbeat, notifications."""
