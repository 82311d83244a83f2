"""The `fine-tune` commands, used beside Dagster's own; one module for each command or group of commands."""
