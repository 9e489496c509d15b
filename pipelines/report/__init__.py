"""A run's report; reads RUN/ only."""
