"""Reward functions as a user would write them, good and bad."""

import asyncio
import os
import re
import time

from data.records import Task


def shorter(task: Task, completion: str) -> float:
    """Favours few characters for the size of the problem."""
    return -len(completion) / len(task.question)


async def patient(task: Task, completion: str) -> float:
    await asyncio.sleep(0)
    return float(task.reference in completion)


def by_step(task: Task, completion: str) -> list[float]:
    """1 for each step of a chain, the answer included, that ends in an even digit."""
    return [float(step[-1:] in tuple("02468")) for step in re.split("\n|(?=>)", completion)]


def silent(task: Task, completion: str) -> None:
    return None


def raises(task: Task, completion: str) -> float:
    raise KeyError("no such thing")


def hangs(task: Task, completion: str) -> float:
    time.sleep(60)
    return 0.0


def hangs_on_wrong(task: Task, completion: str) -> float:
    return 1.0 if task.reference in completion else hangs(task, completion)


def words(task: Task, completion: str) -> str:
    return "very good"


def infinite(task: Task, completion: str) -> float:
    return float("inf")


def huge(task: Task, completion: str) -> float:
    """Finite, and infinite in the float32 of a batch."""
    return 1e39


def long_integer(task: Task, completion: str) -> int:
    """The distance to an answer of 400 digits, say: no float holds it."""
    return -(10**400)


def huge_steps(task: Task, completion: str) -> list[float]:
    return [0.0, *[1e39] * (len(by_step(task, completion)) - 1)]


class Client:
    """As HTTP clients are: of the event loop that it met first."""

    loop: asyncio.AbstractEventLoop | None = None


async def with_a_client(task: Task, completion: str) -> float:
    Client.loop = Client.loop or asyncio.get_running_loop()
    return float(Client.loop is asyncio.get_running_loop())


def forks(task: Task, completion: str) -> float:
    """Returns twice: in the process, and in its copy."""
    os.fork()
    return float(len(completion))
