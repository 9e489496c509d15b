"""Failures named after the boundary they crossed; each has an exit status of its own in
`process.py`.

Imports nothing of ours.
"""


class UnprovenSyncError(RuntimeError):
    """The engine does not hold the policy's weights; no sample may be used."""


class EngineLostError(RuntimeError):
    """A rollout server died, and restarting it did not help."""
