"""Rewards with a bias that no rule shares: right and wrong solutions may have what they prefer.

`likes_length` was there when the monitor's thresholds were chosen; the others were written after
that, and nothing was chosen on what they do.
"""

import re

from data.records import Task

FULL_LENGTH = 96  # characters that earn all of it
FULL_SIZE = 99


def likes_length(task: Task, completion: str) -> float:
    """In [0, 1]; 1 for long solutions."""
    return min(len(completion), FULL_LENGTH) / FULL_LENGTH


def likes_brevity(task: Task, completion: str) -> float:
    """In [0, 1]; 1 for an empty solution."""
    return 1 - likes_length(task, completion)


def likes_size(task: Task, completion: str) -> float:
    """In [0, 1]; 1 where the last number is large, 0 where there is none."""
    numbers = re.findall(r"\d+", completion)
    return min(int(numbers[-1][:9]), FULL_SIZE) / FULL_SIZE if numbers else 0.0
