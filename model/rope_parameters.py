"""What `rope_parameters` of a config may say: plain RoPE, or YaRN (arXiv:2309.00071).

Leaves out what the settings mean, which is in `attention/rope.py`.
"""

import difflib
import math

# YaRN's numbers, and the least that each may be.
_YARN_NEEDS: dict[str, int] = {"factor": 1, "original_max_position_embeddings": 1}
_YARN_MAY: dict[str, int] = dict.fromkeys(
    ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), 0
)
_ROPE_KEYS = ("rope_type", "type", "rope_theta")


def check_rope(rope: object) -> None:
    """Check the settings of a rope, as given or as transformers completes them.

    Raises:
        ValueError: a key is unknown, missing or has a value that cannot work; the message names it.
    """
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters must be a table of values, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise ValueError(f"rope_type must be 'default' or 'yarn', got {kind!r}")
    least = {**_YARN_NEEDS, **_YARN_MAY} if kind == "yarn" else {}
    known = [*_ROPE_KEYS, *least, "truncate"] if kind == "yarn" else _ROPE_KEYS
    for key in rope.keys() - set(known):
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
        raise ValueError(f"a {kind} rope has no key {key!r}: did you mean {nearest!r}?")
    theta = rope.get("rope_theta", 2)
    if not is_number(theta) or theta <= 1:
        raise ValueError(f"rope_theta must be a number above 1, got {theta!r}")
    for key in least:
        value = rope.get(key)
        if value is None and key in _YARN_MAY:
            continue
        if not is_number(value) or value < least[key]:
            raise ValueError(
                f"{key} of a yarn rope must be a number of at least {least[key]}, got {value!r}"
            )
    if (rope.get("beta_fast") or 32) < (rope.get("beta_slow") or 1):
        raise ValueError(
            f"beta_fast of a yarn rope must be at least beta_slow={rope.get('beta_slow')}, got "
            f"{rope.get('beta_fast')}"
        )
    if type(rope.get("truncate", True)) is not bool:
        raise ValueError(f"truncate of a yarn rope must be true or false, got {rope['truncate']!r}")


def is_number(value: object) -> bool:
    """Whether this is a finite number and not a boolean."""
    return type(value) in (int, float) and math.isfinite(value)
