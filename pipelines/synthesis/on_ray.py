"""A generation on Ray Data: its shards are the rows, so that a cluster's scheduler places them.

    rows 1/n ... n/n ─► generate (each in a worker, into OUT.shards/i-of-n) ─► merge ─► OUT

What a worker does is `generate` itself: the same stages, seeds and gates as an array job's, and the
same records. A worker that dies is started anew by Ray and goes on with what its folder holds.
Several machines need a folder that all of them see. Leaves out starting a cluster.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.dataset_folder import DatasetFolder
from data.errors import UserError
from data.shard import WHOLE, Shard
from pipelines.synthesis.merge import Merged, merge
from pipelines.synthesis.request import Request

Row = Mapping[str, Any]


def check_ray(request: Request, num: int) -> None:
    """Refuse what cannot be spread over Ray, before anything is loaded.

    Raises:
        UserError: Ray is not installed, the number is no number of shards, the request is a shard
            itself, or OUT is there.
    """
    if num < 1:
        raise UserError(f"--ray must be at least 1, the number of shards: got {num}")
    if request.shard != WHOLE:
        raise UserError("--ray makes the shards itself: leave out --shard")
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            'Ray is not installed: pip install "ray[data]", or start the shards yourself with '
            "--shard i/n and join them with `sparring-data merge`"
        )
    if not DatasetFolder(request.out).is_empty():
        raise UserError(f"{request.out} is not empty: give another --out")


def part_of(request: Request, number: int, num: int) -> Request:
    """What one shard is asked for; it goes on where its folder holds something already."""
    out = shards_folder(request.out) / f"{number}-of-{num}"
    started = not DatasetFolder(out).is_empty()
    wanted = math.ceil(request.num / num)
    return replace(request, out=out, num=wanted, shard=Shard(number, num), resume=started)


def shards_folder(out: Path) -> Path:
    """Where the shards of a set lie until they are merged, and stay."""
    return out.with_name(f"{out.name}.shards")


def generate_on_ray(request: Request, num: int, prepare: Callable[[], None]) -> Merged:
    """Generate `num` shards side by side, as many as the cluster holds, and merge them.

    Args:
        request: of the whole set; each shard accepts its share of `num`, rounded up.
        num: shards.
        prepare: a worker's process, before it imports torch.

    Raises:
        UserError: what is wrong with the request, or why shards cannot be merged.
    """
    check_ray(request, num)
    import ray  # an optional library

    started = not ray.is_initialized()
    if started:
        ray.init(logging_level="error", log_to_driver=False, include_dashboard=False)
    try:
        needs = {"num_cpus": 1, "num_gpus": 1 if "GPU" in ray.cluster_resources() else 0}
        rows = ray.data.from_items(
            [{"number": number} for number in range(1, num + 1)], override_num_blocks=num
        )
        rows.map(
            _generate_shard, fn_kwargs={"request": request, "num": num, "prepare": prepare}, **needs
        ).take_all()
    except ray.exceptions.RayTaskError as error:
        raise _in_one_line(error) from error
    finally:
        if started:
            ray.shutdown()
    parts = [part_of(request, number, num).out for number in range(1, num + 1)]
    return merge(request.out, parts)


def _generate_shard(
    row: Row, request: Request, num: int, prepare: Callable[[], None]
) -> dict[str, int]:
    """One row: a shard, in a worker's own process."""
    prepare()
    from pipelines.synthesis.generate import generate  # it imports torch

    progress = generate(part_of(request, int(row["number"]), num))
    return {"number": int(row["number"]), "accepted": progress.accepted}


def _in_one_line(error: BaseException) -> UserError:
    """A worker's own error, without the frames that Ray wraps around it."""
    cause = getattr(error, "cause", None)
    while getattr(cause, "cause", None) is not None:
        cause = cause.cause
    said = str(cause or error).strip().splitlines()
    return UserError(
        f"a shard failed: {said[-1] if said else 'without a word'}; what was complete is kept, and "
        "the same command with --resume goes on"
    )
