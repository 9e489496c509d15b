"""A reward with a bias that no rule shares: it prefers long solutions, right or wrong."""

FULL_LENGTH = 96  # characters that earn all of it


def likes_length(task, completion) -> float:  # type: ignore[no-untyped-def]
    """In [0, 1]."""
    return min(len(completion), FULL_LENGTH) / FULL_LENGTH
