"""Where memory survives a restart: a local directory, or an object with a lease."""
