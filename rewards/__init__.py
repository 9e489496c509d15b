"""Verdicts, verifiers, solution dialects and the aggregation of rewards; imports no torch."""
