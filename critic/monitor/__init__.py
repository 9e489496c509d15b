"""The entropy monitor: evidence, signals, decisions, incidents."""
