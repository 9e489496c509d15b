"""Examinations by several processes: each samples its share, and all see the whole.

The processes are threads that meet at a barrier, as they would in a collective.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pipelines.game.shared import SharedRole
from pipelines.rollouts.sample import Prompt, Sample


class Echo:
    """A role that answers with its prompt, and notes what it was asked."""

    def __init__(self, process_index: int) -> None:
        self.process_index, self.asked = process_index, list[str]()

    def sample(self, prompts, purpose, num=1, temperature=None):  # type: ignore[no-untyped-def]
        self.asked += prompts
        return [[Sample(f"{p}{n}{purpose}{temperature}", [], [], False) for n in range(num)]
                for p in prompts]  # fmt: skip

    def score(self, prompts, replies):  # type: ignore[no-untyped-def]
        return [[float(f"{p}{r}")] for p, r in zip(prompts, replies, strict=True)]

    def prompt_length(self, prompt: Prompt) -> int:
        return len(prompt)


def _together(num: int, examine, prompts):  # type: ignore[no-untyped-def]
    """What `examine` gives in each of `num` processes."""
    meet, slots = Barrier(num, timeout=10), [None] * num

    def process(rank: int):  # type: ignore[no-untyped-def]
        def gather(own: list) -> list:
            slots[rank] = own  # type: ignore[call-overload]
            meet.wait()
            every = [one for slot in slots for one in slot]  # type: ignore[attr-defined]
            meet.wait()
            return every

        role = Echo(rank)
        return examine(SharedRole(role, gather), prompts[rank]), role.asked

    with ThreadPoolExecutor(num) as pool:
        return [f.result() for f in [pool.submit(process, rank) for rank in range(num)]]


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 6])
def test_each_process_samples_a_share_and_all_see_what_one_would(num: int, size: int) -> None:
    prompts = [str(number) for number in range(size)]
    whole = Echo(0).sample(prompts, "probe", 2, 0.3)
    found = _together(num, lambda role, own: role.sample(own, "probe", 2, 0.3), [prompts] * num)
    assert [samples for samples, _ in found] == [whole] * num
    assert sorted(one for _, asked in found for one in asked) == prompts, "each asked once"
    assert max(len(asked) for _, asked in found) <= -(-size // num)
    scores = _together(num, lambda role, own: role.score(own, own[::-1]), [prompts] * num)
    assert [one for one, _ in scores] == [Echo(0).score(prompts, prompts[::-1])] * num


def test_processes_that_ask_for_other_things_are_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"ask for \[2, 1\] answers"):
        _together(2, lambda role, own: role.sample(own, "probe"), [["1", "2"], ["1"]])
