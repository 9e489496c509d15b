"""Advantages as they are optimised: what carries no signal, what a flaw costs, on which tokens.

The properties are those of the game: no correct solution is pushed down by a critic, splitting or
padding steps does not pay, and a critic that says nothing changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Scored, StepSignal
from pipelines.training.advantages import (
    advantages,
    ends_by_row,
    rewards,
    spread,
    step_baselines,
    token_ends,
    tokens_of,
)

TOKENIZER = character_tokenizer()
PENALTY = 1.0
reward_groups = st.lists(st.none() | st.floats(-2, 6, width=32), min_size=4, max_size=4)


def _outcome(group: Sequence[float | None]) -> torch.Tensor:
    """Any normalisation of a group's rewards will do here: TRL's own is tested by its trainer."""
    return torch.arange(1.0, len(group) + 1)


def normalised(group: Sequence[float]) -> torch.Tensor:
    """TRL's default: less the group's mean, divided by its standard deviation."""
    rewards_G = torch.tensor(group)
    return (rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-4)


# -- outcomes ------------------------------------------------------------------------------------


@given(value=st.floats(0, 6, width=32), size=st.integers(2, 9))
def test_equal_rewards_carry_no_signal(value: float, size: int) -> None:
    scored = [Scored(value)] * size
    assert (advantages(_outcome([value] * size), scored, size) == 0).all()


@given(group=reward_groups, order=st.permutations(range(4)))
def test_masked_rewards_carry_none_and_the_order_does_not_matter(
    group: list[float | None], order: list[int]
) -> None:
    outcome_B, scored = _outcome(group), [Scored(reward) for reward in group]
    found_B = advantages(outcome_B, scored, 4)
    counted = {reward for reward in group if reward is not None}
    for advantage, own, reward in zip(found_B, outcome_B, group, strict=True):
        assert advantage == (0 if reward is None or len(counted) < 2 else own)
    permuted_B = advantages(outcome_B[order], [scored[i] for i in order], 4)
    assert torch.equal(permuted_B, found_B[order])


def test_groups_do_not_mix() -> None:
    """One flat group beside one that carries signal."""
    scored = [Scored(reward) for reward in (0.5, 0.5, 1.0, 0.0)]
    assert advantages(torch.ones(4), scored, 2).tolist() == [0, 0, 1, 1]
    assert spread(rewards(scored).view(-1, 2)).tolist() == [0, 1]


# -- first flaws ---------------------------------------------------------------------------------

TEXTS = ("a4=40\nb1=50>50", "a4=40\nb1=60>60", "a4=50\nb1=60>60", "a3=30\nb1=40>41")
FIRST, SECOND = (0, 5), (6, 11)  # "a4=40" and "b1=50", one token a character


def _ends(texts: Sequence[str]) -> list[list[int]]:
    rows = [TOKENIZER(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    padded = [[*row, *[TOKENIZER.pad_token_id] * (width - len(row))] for row in rows]
    return [token_ends(TOKENIZER, ids) for ids in padded]


def test_a_flaw_costs_its_own_tokens_and_nothing_else() -> None:
    scored = [Scored(0.0, flaw=SECOND), Scored(0.0), Scored(0.0, flaw=FIRST), Scored(0.0)]
    found_BT = advantages(torch.zeros(4), scored, 4, PENALTY, _ends(TEXTS))
    assert (found_BT[0, 6:11] == -PENALTY).all(), "a group that failed whole carries signal"
    assert (found_BT[0, :6] == 0).all(), "the sound prefix is not punished"
    assert (found_BT[2, 5:] == 0).all(), "what follows a flaw carries nothing"
    assert (found_BT[[1, 3]] == 0).all(), "nobody pointed at these"


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
def test_a_flaw_takes_the_place_of_its_failures_outcome(penalty: float) -> None:
    """Beside a success too: what GRPO would take from the whole failure falls on the flaw alone."""
    scored = [Scored(1.0), Scored(0.0, flaw=SECOND), Scored(0.0)]
    outcome_B = normalised([1.0, 0.0, 0.0])
    found_BT = advantages(outcome_B, scored, 3, penalty, _ends(TEXTS[:3]))
    width = found_BT.shape[1]
    assert found_BT[1].tolist() == [-penalty if 6 <= t < 11 else 0.0 for t in range(width)]
    assert torch.equal(found_BT[[0, 2]], outcome_B[[0, 2]].unsqueeze(1).repeat(1, width))


@given(
    passed=st.lists(st.booleans(), min_size=4, max_size=4),
    flaws=st.lists(st.none() | st.sampled_from([FIRST, SECOND]), min_size=4, max_size=4),
)
def test_no_correct_solution_is_pushed_down_and_no_failure_up(
    passed: list[bool], flaws: list[tuple[int, int] | None]
) -> None:
    """Whatever is pointed at among the failures: judged after normalisation, as it is optimised."""
    outcome_B = normalised([float(one) for one in passed])
    scored = [
        Scored(float(one), flaw=None if one else flaw)
        for one, flaw in zip(passed, flaws, strict=True)
    ]
    silent = [replace(own, flaw=None) for own in scored]
    found_BT = advantages(outcome_B, scored, 4, PENALTY, _ends(TEXTS))
    unpointed_BT = advantages(outcome_B, silent, 4, PENALTY, _ends(TEXTS))
    for row, one in enumerate(passed):
        assert (found_BT[row] >= 0).all() if one else (found_BT[row] <= 0).all()
        if flaws[row] is None or one:
            assert torch.equal(found_BT[row], unpointed_BT[row]), "a silent critic changes nothing"


LAST = (5, 15)  # "\nb1=60>60" and the end token


def test_a_failure_that_nobody_locates_is_not_the_cheapest_of_a_lost_group() -> None:
    """SmolLM2 left a line out, where code sees no wrong one, until no sum came out right."""
    scored = [Scored(0.0, flaw=SECOND), Scored(0.0, ending=LAST), Scored(None, ending=LAST)]
    found_BT = advantages(torch.zeros(3), scored, 3, PENALTY, _ends(TEXTS[:3]))
    assert (found_BT[1, 5:14] == -PENALTY).all() and (found_BT[1, :5] == 0).all()
    assert (found_BT[2] == 0).all(), "a masked one ends nowhere"


def test_the_tokens_of_an_ending_are_found_where_nothing_else_is_located() -> None:
    ids_BT = torch.tensor([TOKENIZER(TEXTS[0])["input_ids"]] * 2)
    found = ends_by_row(TOKENIZER, [Scored(0.0, ending=LAST), Scored(0.0)], ids_BT)
    assert found == [token_ends(TOKENIZER, ids_BT[0].tolist()), [0] * len(ids_BT[0])]


def test_how_a_failure_ends_counts_only_where_its_group_is_lost_and_flaws_are_located() -> None:
    ends, outcome_B = _ends(TEXTS[:3]), normalised([1.0, 0.0, 0.0])
    beside = [Scored(1.0), Scored(0.0, flaw=SECOND), Scored(0.0, ending=LAST)]
    found_BT = advantages(outcome_B, beside, 3, PENALTY, ends)
    assert torch.equal(found_BT[2], outcome_B[2].expand(len(ends[0]))), "its outcome is enough"
    lost = [Scored(0.0, ending=LAST)] * 3
    assert (advantages(torch.zeros(3), lost, 3, PENALTY, ends) == 0).all(), "nobody says anything"
    lost[0] = Scored(None, flaw=SECOND)
    assert (advantages(torch.zeros(3), lost, 3, PENALTY, ends) == 0).all(), "nor who is left out"


def test_neither_splitting_nor_padding_steps_pays() -> None:
    """The flawed step keeps its whole penalty in a longer solution, and when it is a longer one."""
    short, padded = "a4=40\nb1=60>60", "a4=40\nb1=60\nc0=60\nd0=60\ne0=60>60"
    ends = _ends([short, padded])
    scored = [Scored(0.0, flaw=SECOND), Scored(0.0, flaw=SECOND)]
    found_BT = advantages(torch.zeros(2), scored, 2, PENALTY, ends)
    assert torch.equal(found_BT[0], found_BT[1])
    longer = advantages(torch.zeros(2), [Scored(0.0, flaw=(6, 18))] * 2, 2, PENALTY, ends)
    assert longer[1].sum() < found_BT[1].sum(), "more of a flawed step is not cheaper"


def test_a_masked_completion_has_no_flaw() -> None:
    scored = [Scored(None, flaw=SECOND), Scored(0.0, flaw=SECOND)]
    found_BT = advantages(torch.zeros(2), scored, 2, PENALTY, _ends(TEXTS[:2]))
    assert (found_BT[0] == 0).all() and (found_BT[1] != 0).any()


# -- rewards of steps ----------------------------------------------------------------------------


def _signals(*values: float) -> tuple[StepSignal, ...]:
    return tuple(StepSignal(*span, v) for span, v in zip((FIRST, SECOND), values, strict=False))


def test_a_steps_reward_lands_on_its_own_tokens() -> None:
    scored = [Scored(0.0, _signals(1.0, 0.0)), Scored(0.0, _signals(0.0, 0.0))]
    found_BT = advantages(torch.zeros(2), scored, 2, PENALTY, _ends(TEXTS[:2]))
    assert found_BT[0, :5].tolist() == [0.75] * 5 and found_BT[0, 6:11].tolist() == [-0.25] * 5
    assert found_BT[1, :5].tolist() == [-0.25] * 5
    assert (found_BT[:, 11:] == 0).all() and (found_BT[:, 5] == 0).all()


@given(value=st.floats(-1, 1), sizes=st.lists(st.integers(1, 7), min_size=2, max_size=7))
@example(value=0.1, sizes=[6, 1])  # six tenths add up to a little less than 0.6
@example(value=0.1, sizes=[1] * 6)
def test_equal_step_rewards_carry_no_signal(value: float, sizes: list[int]) -> None:
    """Exactly none, whatever the number of steps: a longer solution is not better for it."""
    ends = [list(range(1, 8))] * len(sizes)
    scored = [
        Scored(0.0, tuple(StepSignal(place, place + 1, value) for place in range(size)))
        for size in sizes
    ]
    assert (advantages(torch.zeros(len(sizes)), scored, len(sizes), 1.0, ends) == 0).all()


def test_a_steps_reward_is_added_to_the_outcome_and_to_the_flaw() -> None:
    """A user's opinion of a step neither hides the verifier's word nor is hidden by it."""
    scored = [Scored(1.0, _signals(1.0, 1.0)), Scored(0.0, _signals(0.0, 0.0), flaw=SECOND)]
    outcome = 0.75
    found_BT = advantages(torch.tensor([outcome, -outcome]), scored, 2, PENALTY, _ends(TEXTS[:2]))
    assert found_BT[0, [0, 5, 6, 11]].tolist() == [outcome + 0.5, outcome, outcome + 0.5, outcome]
    assert found_BT[1, [0, 5, 6, 11]].tolist() == [-0.5, 0.0, -PENALTY - 0.5, 0.0]


def test_step_rewards_of_groups_do_not_mix() -> None:
    scored = [Scored(0.0, _signals(value)) for value in (1.0, 0.0, 5.0, 5.0)]
    found_BT = advantages(torch.zeros(4), scored, 2, PENALTY, _ends(TEXTS))
    assert found_BT[:, 0].tolist() == [0.5, -0.5, 0.0, 0.0]


def test_a_masked_completion_moves_no_baseline() -> None:
    """Its steps were rewarded, its outcome is unknown: equal ones beside it carry no signal."""
    scored = [Scored(reward, _signals(value)) for reward, value in ((0.0, 0.5), (0.0, 0.5))]
    masked = Scored(None, _signals(0.9))
    found_BT = advantages(torch.zeros(3), [*scored, masked], 3, PENALTY, _ends(TEXTS[:3]))
    assert (found_BT == 0).all()


def test_a_solution_counts_once_in_the_baseline() -> None:
    """Two steps of one solution weigh as much as the one step of another."""
    scored = [Scored(0.0, _signals(1.0, 1.0)), Scored(0.0, _signals(0.0)), Scored(0.0)]
    assert step_baselines(scored, 3) == [0.5]


# -- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "tokens"),
    [
        ([1, 2, 3, 4], [1, 2]),
        ([2, 4], [0, 1]),  # tokens of two characters, each of which touches the span
        ([1, 1, 3, 3], [2]),  # tokens that decode to nothing, such as the end token
        ([1, 2, 2, 2], [1, 2]),  # an end beyond the text includes its end token, and no padding
        ([0, 0], [0]),
    ],
)
def test_a_token_belongs_to_a_span_that_it_writes_into(ends: list[int], tokens: list[int]) -> None:
    assert tokens_of((1, 3), ends) == tokens


@given(data=st.data(), lengths=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_tokens_are_found_as_every_one_of_them_would_say(
    data: st.DataObject, lengths: list[int]
) -> None:
    """Without asking every one: steps times tokens grows with the square of a completion."""
    ends = list(accumulate(lengths))
    start = data.draw(st.integers(0, ends[-1]))
    span = start, data.draw(st.integers(start, ends[-1]))
    written = [range(before, end) for before, end in zip([0, *ends], ends, strict=False)]
    if span[0] < span[1]:
        expected = [t for t, own in enumerate(written) if set(own) & set(range(*span))]
        assert tokens_of(span, ends) == expected


TEXT = "Step 1: 3 × 4 = 12 — café 😀 don't\n两个 ∑ x² ≤ 5\n"  # noqa: RUF001


def _byte_level() -> PreTrainedTokenizerFast:
    """Tokens are bytes or a little more, as GPT's: most characters above take several of them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<eos>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(["Step 1: 3 4 = 12"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def _byte_fallback() -> PreTrainedTokenizerFast:
    """Spaces are part of tokens and the first is dropped, as Llama 2's; the rest falls to bytes."""
    names = ["<unk>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁Step1:34=2dont"]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.mark.parametrize("make", [_byte_level, _byte_fallback, character_tokenizer])
@given(data=st.data())
def test_the_ends_of_tokens_are_those_of_every_beginning_decoded(
    make: Callable[[], PreTrainedTokenizerFast], data: st.DataObject
) -> None:
    """Of text and of any ids, however a character is split, special tokens among them."""
    tokenizer = make()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    drawn = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    for given_ids in (ids, [*ids, tokenizer.eos_token_id, *ids], [*drawn, *ids]):
        beginnings = [given_ids[: place + 1] for place in range(len(given_ids))]
        lengths = [len(tokenizer.decode(one, skip_special_tokens=True)) for one in beginnings]
        expected = [min(lengths[place:]) for place in range(len(lengths))]
        assert token_ends(tokenizer, given_ids) == expected


def test_twice_as_many_tokens_are_twice_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of every beginning would be four times the work; here tokens decoded are counted."""
    tokenizer = _byte_level()
    ids, decoded, decode = tokenizer(TEXT * 40)["input_ids"], [], tokenizer.decode

    def counted(some: Sequence[int], **options: bool) -> str:
        decoded.append(len(some))
        return str(decode(some, **options))

    monkeypatch.setattr(tokenizer, "decode", counted)
    works = []
    for num in (len(ids) // 2, len(ids)):
        decoded.clear()
        token_ends(tokenizer, ids[:num])
        works.append(sum(decoded))
    assert works[1] < 2.1 * works[0] and works[1] < 20 * len(ids)


def test_only_completions_with_something_on_steps_are_decoded() -> None:
    ids_BT = torch.tensor([TOKENIZER(text)["input_ids"] for text in TEXTS[:2]])
    for one in (Scored(0.0, flaw=FIRST), Scored(0.0, _signals(1.0))):
        ends = ends_by_row(TOKENIZER, [Scored(0.0), one], ids_BT)
        assert set(ends[0]) == {0} and ends[1] == list(range(1, len(TEXTS[1]) + 1))
