"""The `sparring-data` commands: generate, inspect, verify, export."""
