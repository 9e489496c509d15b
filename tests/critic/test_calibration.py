"""The critic's figures against scikit-learn, brute force, closed forms and hand-made critics."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from critique_cases import UNREAD, critique
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from critic.calibration import (
    FIGURES,
    SHARES,
    auroc,
    class_balance,
    compare,
    measure,
)
from critic.measured import MeasuredCritique
from critic.resampling import task_counts

STEPS = (None, "a", "b")
CRITIQUES = st.lists(
    st.builds(
        lambda task, solution, sound, bucket, named, first_bad, parsed: critique(
            bucket / 9 if parsed else 0.5,
            sound=sound,
            named=named if parsed else None,
            first_bad=None if sound else first_bad,
            kind=None if sound else f"kind {first_bad}",
            parsed=parsed,
            task=f"task {task}",
            solution=f"{solution}{sound}",
        ),
        st.integers(0, 4),
        st.integers(0, 1),
        st.booleans(),
        st.integers(0, 9),
        st.sampled_from(STEPS),
        st.sampled_from(STEPS),
        st.booleans(),
    ),
    max_size=40,
)


def share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def by_brute_force(critiques: Sequence[MeasuredCritique]) -> dict[str, float | None]:
    """Each figure by its definition."""
    sound = [c for c in critiques if c.sound]
    located = [c.named == c.first_bad for c in critiques if c.first_bad is not None]
    on_erroneous, on_correct = share(located), share([c.parsed and not c.accuses for c in sound])
    f1 = None
    if on_erroneous is not None and on_correct is not None:
        total = on_erroneous + on_correct
        f1 = 2 * on_erroneous * on_correct / total if total else 0.0
    scores, labels = [c.p_sound for c in critiques], [int(c.sound) for c in critiques]
    bins: dict[int, list[MeasuredCritique]] = {}
    for c in critiques:
        bins.setdefault(min(int(c.p_sound * 10), 9), []).append(c)
    gaps = [
        len(b) * abs(np.mean([c.p_sound for c in b]) - np.mean([c.sound for c in b]))
        for b in bins.values()
    ]
    return {
        "location_accuracy": on_erroneous,
        "processbench_f1": f1,
        "false_accusations": share([c.accuses for c in sound]),
        "auroc": roc_auc_score(labels, scores) if len(set(labels)) == 2 else None,
        "brier": brier_score_loss(labels, scores, labels=[0, 1]) if critiques else None,
        "ece": sum(gaps) / len(critiques) if critiques else None,
        "parsed": share([c.parsed for c in critiques]),
    }


@given(critiques=CRITIQUES)
def test_every_figure_is_what_its_definition_says(critiques: list[MeasuredCritique]) -> None:
    found = measure(critiques, num_resamples=3)
    expected = by_brute_force(critiques)
    assert set(found.figures) == set(FIGURES) == set(expected)
    for name, value in expected.items():
        got = found.figures[name].value
        assert got is value is None or got == pytest.approx(value), name
    flawed = [c for c in critiques if not c.sound]
    for kind, own in found.by_kind.items():
        its = [c for c in flawed if c.kind == kind]
        assert (own.num, own.share) == (len(its), len(its) / len(flawed))
        accuracy = by_brute_force(its)["location_accuracy"]
        assert own.location_accuracy.value == (accuracy and pytest.approx(accuracy))
    assert sum(own.num for own in found.by_kind.values()) == len(flawed)


@settings(max_examples=20)
@given(critiques=CRITIQUES, seed=st.integers(0, 9))
def test_the_intervals_are_those_of_whole_tasks_drawn_again(
    critiques: list[MeasuredCritique], seed: int
) -> None:
    """A resample is the list of critiques with each task's repeated as often as it was drawn."""
    tasks = sorted({c.task for c in critiques})
    found = measure(critiques, num_resamples=20, seed=seed).figures
    resamples = [
        by_brute_force([c for c in critiques for _ in range(int(counts_N[tasks.index(c.task)]))])
        for counts_N in task_counts(len(tasks), 20, seed)
    ]
    for name, estimate in found.items():
        values = [each[name] for each in resamples if each[name] is not None]
        num_tasks = len({c.task for c in critiques if SHARES.get(name, lambda c: True)(c)})
        if estimate.value is None or num_tasks < 2 or not values:
            assert estimate.interval is None
        elif name in SHARES and estimate.value in (0, 1):  # see test_resampling.py
            assert estimate.interval[0] < estimate.interval[1]
        else:
            assert estimate.interval == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


@given(critiques=CRITIQUES, seed=st.integers(0, 9))
def test_figures_ignore_the_order_of_critiques(
    critiques: list[MeasuredCritique], seed: int
) -> None:
    shuffled = critiques.copy()
    random.Random(seed).shuffle(shuffled)
    first, second = (measure(each, num_resamples=3).row() for each in (critiques, shuffled))
    for each in (first, second):
        each.pop("ece_perfect"), each.pop("ece_perfect_p95")  # simulated: another draw, alike
    kinds = first.pop("by_kind"), second.pop("by_kind")
    assert first == {name: pytest.approx(value, nan_ok=True) for name, value in second.items()}
    assert kinds[0] == kinds[1]


def test_a_perfect_critic() -> None:
    critiques = [
        critique(
            float(sound), sound=sound, named=step, first_bad=step, task=f"{n}", solution=f"{step}"
        )
        for n in range(10)
        for sound, step in ((True, None), (False, "c"))
    ]
    found = measure(critiques)
    expected = dict.fromkeys(FIGURES, 1.0) | {"false_accusations": 0.0, "brier": 0.0, "ece": 0.0}
    assert {name: own.value for name, own in found.figures.items()} == expected
    assert found.figures["auroc"].interval == (1, 1)
    assert (found.num_critiques, found.num_solutions, found.num_sound) == (20, 20, 10)
    assert (found.ece_perfect, found.ece_perfect_p95) == (0, 0)


def test_single_critiques_are_measured_never_their_mean() -> None:
    """Eight draws of one solution, three of them right, are 3/8 and no majority."""
    flawed = [critique(0.1, sound=False, named="c", first_bad="c")] * 3
    flawed += [critique(0.9, sound=False, first_bad="c")] * 5
    found = measure(flawed).figures
    assert found["location_accuracy"].value == 3 / 8
    assert found["brier"].value == pytest.approx((3 * 0.1**2 + 5 * 0.9**2) / 8)


def test_a_critique_that_was_not_read_is_wrong_and_undecided() -> None:
    """At a cold start one critique in five does not parse, and it counts."""
    flawed = [critique(0.1, sound=False, named="c", first_bad="c")] * 4
    sound = [critique(0.9, sound=True, solution="t")] * 4
    read = measure(flawed + sound).figures
    lost = measure(
        flawed
        + sound
        + [critique(**UNREAD, sound=False, first_bad="c"), critique(**UNREAD, solution="t")]
    ).figures
    assert read["location_accuracy"].value == read["processbench_f1"].value == 1
    assert lost["location_accuracy"].value == 4 / 5
    assert lost["processbench_f1"].value == pytest.approx(4 / 5)
    assert lost["false_accusations"].value == 0
    assert lost["parsed"].value == 8 / 10
    assert lost["brier"].value == pytest.approx((8 * 0.1**2 + 2 * 0.5**2) / 10)
    assert lost["auroc"].value == pytest.approx((4 * 4 + 4 + 4 + 1 / 2) / 25)


def test_an_accusation_without_a_known_first_flaw_still_counts_against_sound_ones() -> None:
    found = measure(
        [critique(0.9), critique(0.2, named="a"), critique(0.1, sound=False, named="d")]
    ).figures
    assert found["false_accusations"].value == 0.5
    assert found["location_accuracy"].value is None and found["processbench_f1"].value is None


def test_one_class_or_nothing_at_all_crashes_nothing() -> None:
    for critiques in ([], [critique(0.9)], [critique(0.1, sound=False, named="a", first_bad="a")]):
        found = measure(critiques)
        assert found.figures["auroc"].value is found.figures["auroc"].interval is None
        assert found.figures["processbench_f1"].value is None
        assert all(each.verdict == "unknown" for each in compare(critiques, critiques).values())
    assert measure([]).row()["by_kind"] == {} and measure([]).ece_perfect is None


def test_one_task_has_no_interval() -> None:
    """Resampling one task shows no spread: an interval of no width would claim certainty."""
    found = measure([critique(0.9), critique(0.1, sound=False, first_bad="a", named="a")])
    assert found.figures["location_accuracy"].value == 1
    assert all(each.interval is None for each in found.figures.values())


# -- calibration ----------------------------------------------------------------------------------


def calibrated_critic(rng: np.random.Generator, num: int, draws: int) -> list[MeasuredCritique]:
    """Solutions that are sound exactly as often as the critic says, in 1..draws equal critiques."""
    levels = rng.choice([0.05, 0.25, 0.5, 0.75, 0.95], size=num)
    return [
        critique(p, sound=bool(sound), task=f"{n}")
        for n, (p, sound) in enumerate(zip(levels, rng.random(num) < levels, strict=True))
        for _ in range(draws)
    ]


@pytest.mark.parametrize("draws", [1, 8])
def test_a_perfectly_calibrated_critic_is_not_called_miscalibrated(draws: int) -> None:
    """Its ECE at n = 75 is far from 0; about 95% of them lie below the given one."""
    rng = np.random.default_rng(0)
    below, eces, means = 0, [], []
    for seed in range(100):
        found = measure(calibrated_critic(rng, 75, draws), num_resamples=100, seed=seed)
        assert found.ece_perfect is not None and found.ece_perfect_p95 is not None
        ece = found.figures["ece"].value
        below, eces = below + (ece <= found.ece_perfect_p95), [*eces, ece]
        means.append(found.ece_perfect)
    assert below >= 88
    assert np.mean(means) == pytest.approx(np.mean(eces), rel=0.1)
    assert np.mean(eces) > 0.04, "draws of one solution are not independent"


def test_a_critic_that_is_too_sure_is_called_miscalibrated() -> None:
    """It says 0.95 where 0.7 are sound, at n = 150."""
    critiques = [critique(0.95, sound=n % 10 < 7, task=f"{n}") for n in range(150)]
    found = measure(critiques)
    assert found.figures["ece"].value == pytest.approx(0.25)
    assert found.ece_perfect_p95 is not None and found.ece_perfect_p95 < 0.05


def test_opposite_errors_in_different_bins_do_not_cancel() -> None:
    found = measure([critique(0.05, sound=True), critique(1.0, sound=False)])
    assert found.figures["ece"].value == pytest.approx(0.975)


@given(critiques=CRITIQUES)
def test_nothing_changes_against_oneself(critiques: list[MeasuredCritique]) -> None:
    for name, found in compare(critiques, critiques, num_resamples=5).items():
        assert found.value in (0, None) and found.verdict in ("unchanged", "unknown"), name


# -- the rest -------------------------------------------------------------------------------------


def test_any_score_can_be_a_baseline() -> None:
    assert auroc([-30.0, -50.0, -10.0], [1, 0, 1]) == 1.0
    assert auroc([7.0, 7.0], [1, 0]) == 0.5
    assert auroc([7.0], [1]) is None and auroc([], []) is None


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.5], [1, 0], "1 scores and 2 labels"),
        ([0.5], [2], r"labels must be 0 or 1, got \[2\]"),
        ([float("nan")], [1], "scores must be finite"),
    ],
)
def test_bad_items_are_refused(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auroc(scores, labels)


def test_a_critique_states_a_probability_and_sound_solutions_have_no_mistake() -> None:
    with pytest.raises(ValueError, match=r"p_sound must lie in \[0, 1\], got 1.5"):
        critique(1.5)
    with pytest.raises(ValueError, match="a sound solution has no mistake"):
        critique(first_bad="a")


@given(items=st.lists(st.integers(0, 30), max_size=40), seed=st.integers(0, 9))
def test_class_balance(items: list[int], seed: int) -> None:
    kept = class_balance(list(enumerate(items)), lambda item: item[1] % 3, random.Random(seed))
    sizes = {label: sum(item % 3 == label for item in items) for label in {i % 3 for i in items}}
    smallest = min(sizes.values(), default=0)
    assert kept == sorted(kept)
    for label in sizes:
        assert sum(item % 3 == label for _, item in kept) == smallest
