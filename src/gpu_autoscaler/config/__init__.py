"""What the operator wrote and what it means: settings from YAML, secrets from the environment."""
