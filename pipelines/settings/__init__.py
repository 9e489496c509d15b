"""The run's configuration; imports no torch."""
