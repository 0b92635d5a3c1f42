"""The bodies of the commands, one file a stage. Heavy imports stand inside them, so that `--help` answers at once."""
