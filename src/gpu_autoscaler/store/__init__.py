"""Where memory survives a restart: a local directory."""
