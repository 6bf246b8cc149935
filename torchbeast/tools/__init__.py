"""What surrounds a run: its directory, logs, checkpoints, display, signals, figures."""
