"""Failures named after the boundary they crossed; each has an exit status of its own in
`process.py`.

Imports only `data.errors`, whose names it repeats for the rooms of `pipelines/`.
"""

from data.errors import (
    UserError,
    as_user_error,
    did_you_mean,
    full_disk_as_user_error,
    reason,
    unknown_name,
)

__all__ = [
    "EngineLostError",
    "UnprovenSyncError",
    "UserError",
    "as_user_error",
    "did_you_mean",
    "full_disk_as_user_error",
    "reason",
    "unknown_name",
]


class UnprovenSyncError(RuntimeError):
    """The engine does not hold the policy's weights; no sample may be used."""


class EngineLostError(RuntimeError):
    """A rollout server died, and restarting it did not help."""
