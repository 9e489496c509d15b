"""Which weights are these: fingerprints of tensors, and the name of a whole set of them.

Leaves out where a policy's tensors come from (`policy/tensors.py`) and who compares them
(`sync/push.py`).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import xxhash

Fingerprints = dict[str, str]

NamedTensors = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class WeightsId:
    """Which of a policy's weights an engine holds.

    Attributes:
        version: optimizer steps that the policy had taken; -1 where nothing is proven.
        hash: `fingerprints_hash` of the tensors, hex.
        stamp: names one sending of them and is never used twice; empty where none was sent.
    """

    version: int
    hash: str
    stamp: str = ""


UNPROVEN = WeightsId(-1, "")


def fingerprints_hash(fingerprints: Fingerprints) -> str:
    """One hash (SHA-256, hex) over the names and fingerprints of tensors."""
    lines = "\n".join(f"{name} {digest}" for name, digest in fingerprints.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def fingerprints_difference(sent: Fingerprints, received: Fingerprints) -> str:
    """Names whose bytes differ, in words; empty where every one arrived."""
    names = [n for n in {**sent, **received} if sent.get(n) != received.get(n)]
    return f"{len(names)} tensors, first {sorted(names)[:4]}" if names else ""


def fingerprint(tensor: torch.Tensor) -> str:
    """XXH3 (128 bits, hex) over dtype, shape and bytes: fast; no defence against an attacker."""
    digest = xxhash.xxh3_128(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    digest.update(memoryview(flat.cpu().numpy()))
    return digest.hexdigest()
