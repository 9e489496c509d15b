"""Weights into an engine, proven."""
