"""Multi-token layers that a config names and its checkpoint lacks: it is loaded without them.

Stock transformers builds no such layers, but its config counts them: one by default, or as many as
DeepSeek's config said. So what it saves names layers of which it holds no tensor. Leaves out layers
of which some tensors are there: those checkpoints are broken, and `naming.py` refuses them.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from model.checkpoint.files import read_json, stored_names
from model.checkpoint.naming import multi_token_prefixes
from model.configuration import SparringMoeConfig

logger = logging.getLogger(__name__)

_KEY = "num_nextn_predict_layers"


def without_absent_layers(
    source: str, find: Callable[[str], Path | None], arguments: Mapping[str, object]
) -> dict[str, object]:
    """The arguments of `from_pretrained`, asking for no multi-token layers if there are none.

    Warns once per process and source.

    Args:
        source: where the checkpoint comes from, for the warning.
        find: gives a file of the checkpoint by its name; None if it is absent.
        arguments: of `from_pretrained`; its `config` is not changed but copied.

    Raises:
        ValueError: the config or the index is not a JSON object, or a header is broken.
    """
    config = arguments.get("config")
    given = getattr(config, _KEY) if isinstance(config, SparringMoeConfig) else None
    if arguments.get(_KEY, given) == 0 or not (absent := _absent_layers(find)):
        return {**arguments}
    _warn(source, absent)
    if given is None:
        return {**arguments, _KEY: 0}
    config = copy.deepcopy(config)
    setattr(config, _KEY, 0)
    return {**arguments, "config": config}


def _absent_layers(find: Callable[[str], Path | None]) -> int:
    """The multi-token layers that the stored config names, if the checkpoint has none of them."""
    file = find("config.json")
    table = read_json(file) if file is not None else {}
    counts = table.get("num_hidden_layers", SparringMoeConfig.num_hidden_layers), table.get(_KEY, 0)
    if any(type(count) is not int for count in counts) or counts[1] < 1:
        return 0  # whatever is wrong with it, the config's own checks say
    names = stored_names(find)
    there = any(name.startswith(multi_token_prefixes(*counts)) for name in names)
    return counts[1] if names and not there else 0


@cache  # a run loads one checkpoint several times
def _warn(source: str, num_layers: int) -> None:
    logger.warning(
        "%s: the config has %s=%d, but the checkpoint has no tensor of these layers: loading it "
        "without multi-token prediction",
        *(source, _KEY, num_layers),
    )
