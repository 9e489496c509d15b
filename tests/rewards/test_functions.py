"""A user's own rewards: added, per step, silent; a failure is never a silent 0."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from data.errors import UserError
from data.records import Generator, Task
from rewards.chain import ChainDialect
from rewards.functions import OwnReward
from rewards.solution import Solution
from rewards.verifiers import Verifiers

FILE = Path(__file__).resolve().parents[1] / "support" / "own_reward.py"
TASK = Task(
    id="0", family="test", question="Calculate 4 + 1 + 7.", reference="12", verifier="exact",
    split="train", entry={}, generator=Generator(name="test", version="1", seed=0, difficulty=""),
)  # fmt: skip


def _solution(text: str = "a4=40\nb1=50\nc7=21>21") -> Solution:
    return ChainDialect().parse_solution(text, truncated=False)


def _asked(*names: str, weight: float = 1.0, seconds: float = 20.0) -> OwnReward:
    functions = {f"{FILE}:{name}": weight for name in names}
    with closing(Verifiers(seconds, 1, functions)) as verifiers:
        (found,) = verifiers.own_rewards([(TASK, _solution())])
        return found


def test_numbers_add_up_by_their_weights() -> None:
    length = len(_solution().text) / len(TASK.question)
    assert _asked("shorter", weight=0.5) == OwnReward(pytest.approx(-0.5 * length), ())
    assert _asked("patient") == OwnReward(0.0), "an async one is awaited"
    assert _asked("silent") == OwnReward(0.0), "no opinion"
    both = _asked("shorter", "silent", "patient", weight=2.0)
    assert both == OwnReward(pytest.approx(-2 * length))


def test_a_list_rewards_the_steps() -> None:
    assert _asked("by_step", weight=2.0) == OwnReward(0.0, (2.0, 2.0, 0.0, 0.0))
    assert _asked("by_step", "shorter").value == pytest.approx(
        -len(_solution().text) / len(TASK.question)
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raises", "KeyError: 'no such thing'"),
        ("hangs", "no verdict within 1 s"),
        ("words", "returned 'very good': a finite number"),
        ("infinite", "a finite number within 1e+30 of 0, a list of them or None"),
        ("huge", "returned 1e+39: a finite number"),
        ("long_integer", "returned -1000"),
        ("huge_steps", "a finite number within 1e+30 of 0, a list of them or None"),
    ],
)
def test_a_function_that_fails_says_nothing_of_a_completion(name: str, why: str) -> None:
    seconds = 1.0 if name == "hangs" else 20.0
    found = _asked("shorter", name, seconds=seconds)
    assert found.value is None and found.steps == ()
    assert found.failure.startswith(f"{FILE}:{name}: ") and why in found.failure


def test_an_async_function_may_keep_a_client_between_calls() -> None:
    with closing(Verifiers(20, 1, {f"{FILE}:with_a_client": 1.0})) as verifiers:
        found = [verifiers.own_rewards([(TASK, _solution())]) for _ in range(3)]
    assert found == [[OwnReward(1.0)]] * 3


def test_a_copy_that_a_function_forks_answers_nothing() -> None:
    """Its reply would be taken for that of the next completion."""
    texts = ["a4=40", "a4=40\nb1=50", "a4=40\nb1=50\nc7=21>21"]
    with closing(Verifiers(20, 1, {f"{FILE}:forks": 1.0})) as verifiers:
        found = [verifiers.own_rewards([(TASK, _solution(text))]) for text in texts]
    assert found == [[OwnReward(float(len(text)))] for text in texts]


def test_a_weight_cannot_make_a_reward_too_great() -> None:
    """Infinity in a batch would be NaN in every weight of the policy."""
    for name in ("shorter", "by_step"):
        found = _asked(name, weight=1e38)
        assert found == OwnReward(None, failure="rewards beyond 1e+30 with their weights")


def test_a_list_of_another_length_fails() -> None:
    with closing(Verifiers(20, 1, {f"{FILE}:by_step": 1.0})) as verifiers:
        broken = ChainDialect().parse_solution("a4=40\nnonsense", truncated=False)
        (found,) = verifiers.own_rewards([(TASK, broken)])
    assert found.value is None and "returned 2 numbers for a solution of 1 steps" in found.failure


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the user's in the working directory."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rewards.py").write_text("def one(task, completion):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    yield "mine.rewards:one"


def test_a_dotted_path_is_imported_from_the_working_directory(module: str) -> None:
    with closing(Verifiers(20, 1, {module: 3.0})) as verifiers:
        verifiers.functions.prove(TASK)
        assert verifiers.own_rewards([(TASK, _solution())] * 3) == [OwnReward(3.0)] * 3
    assert "mine" not in sys.modules, "it runs in a process of its own"


@pytest.mark.parametrize("name", ["rewards", "json"])
def test_a_file_may_be_named_like_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It must not stand in for what it imports itself."""
    (tmp_path / f"{name}.py").write_text(
        "import json\nfrom rewards.free import final_answer\n"
        "def one(task, completion):\n    return json.loads(final_answer('#### 1'))\n"
    )
    monkeypatch.chdir(tmp_path)
    with closing(Verifiers(20, 1, {f"{name}.py:one": 1.0})) as verifiers:
        assert verifiers.own_rewards([(TASK, _solution())]) == [OwnReward(1.0)]


def test_a_function_whose_file_breaks_during_a_run_is_named(tmp_path: Path) -> None:
    """Its process starts again after a hang, and reads the file again."""
    path = tmp_path / "mine.py"
    path.write_text("import time\ndef reward(task, completion):\n    time.sleep(60)\n")
    with closing(Verifiers(0.3, 1, {f"{path}:reward": 1.0})) as verifiers:
        (found,) = verifiers.own_rewards([(TASK, _solution())])
        assert "no verdict within" in found.failure
        path.write_text("def reward(")
        with pytest.raises(UserError, match=r"mine\.py:reward: .*SyntaxError"):
            verifiers.own_rewards([(TASK, _solution())])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("absent.py:reward", "there is no file absent.py"),
        (f"{FILE}:absent", "has no function or class 'absent'"),
        ("no.such.module:reward", "No module named 'no'"),
        ("reward", "reward does not say which function: write FILE.py:NAME"),
        ("mine.py", "mine.py does not say which function: write FILE.py:NAME"),
        ("rewards:absent", "rewards/__init__.py) has no function or class 'absent'"),
        (f"{FILE}:raises", "KeyError: 'no such thing'"),
        (f"{FILE}:words", "returned 'very good'"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(spec: str, told: str) -> None:
    with (
        closing(Verifiers(20, 1, {spec: 1.0})) as verifiers,
        pytest.raises(UserError, match=r"^rewards\.functions: ") as refused,
    ):
        verifiers.functions.prove(TASK)
    assert told in str(refused.value)


def test_without_functions_nothing_is_asked() -> None:
    with closing(Verifiers(20)) as verifiers:
        verifiers.functions.prove(TASK)
        assert verifiers.own_rewards([(TASK, _solution())] * 2) == [OwnReward(0.0)] * 2
