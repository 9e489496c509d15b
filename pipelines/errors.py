"""Failures named after the boundary they crossed; each has an exit status of its own in
`process.py`.

Imports only `data.errors`, whose `UserError` it repeats for the rooms of `pipelines/`.
"""

from data.errors import UserError

__all__ = ["EngineLostError", "UnprovenSyncError", "UserError"]


class UnprovenSyncError(RuntimeError):
    """The engine does not hold the policy's weights; no sample may be used."""


class EngineLostError(RuntimeError):
    """A rollout server died, and restarting it did not help."""
