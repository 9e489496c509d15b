"""Fingerprints of tensors: what shows that bytes arrived as they were sent."""

import hashlib
from collections.abc import Iterator

import torch
import xxhash

Fingerprints = dict[str, str]

NamedTensors = Iterator[tuple[str, torch.Tensor]]


def _hash(fingerprints: Fingerprints) -> str:
    lines = "\n".join(f"{name} {digest}" for name, digest in fingerprints.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _unequal(sent: Fingerprints, received: Fingerprints) -> str:
    """Names whose bytes differ, in words; empty where every one arrived."""
    names = [n for n in {**sent, **received} if sent.get(n) != received.get(n)]
    return f"{len(names)} tensors, first {sorted(names)[:4]}" if names else ""


def fingerprint(tensor: torch.Tensor) -> str:
    """XXH3 (128 bits, hex) over dtype, shape and bytes: fast; no defence against an attacker."""
    digest = xxhash.xxh3_128(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    digest.update(memoryview(flat.cpu().numpy()))
    return digest.hexdigest()
