"""Configuration: what is read is what is said, and a wrong key or value names itself."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from critic.monitor.settings import MonitorSettings, SignalRule
from pipelines.errors import UserError
from pipelines.rollouts.vllm_options import engine_options
from pipelines.settings.load import apply_overrides, dump_settings, load_settings, parse_settings
from pipelines.settings.rollout_table import RolloutTable
from pipelines.settings.tables import Settings
from pipelines.settings.task_table import Example

SMALLEST = "[run]\ndirectory = 'x'\n[learner]\nmodel = 'm'\n[critic]\nmodel = 'm'\n"


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    path = tmp_path / "smallest.toml"
    path.write_text(SMALLEST + "[tasks]\n")
    return path


@pytest.mark.parametrize("name", ["tiny.toml", "smollm2.toml"])
def test_our_configurations_load_and_survive_a_round_trip(checkout: Path, name: str) -> None:
    settings = load_settings(checkout / "configs" / name)
    assert parse_settings(json.loads(dump_settings(settings))) == settings


@pytest.mark.parametrize(
    ("overrides", "works"),
    [
        (["critic.imitation_steps=1"], True),
        (["critic.steps_per_round=1"], True),
        ([], False),  # code points, where it can
        (["pointing.step_checks=false"], True),
        (["pointing.source=critic"], True),
        (["pointing.source=none"], False),
    ],
)
def test_a_critic_is_at_work_that_is_trained_or_points_without_code(
    smallest: Path, overrides: list[str], works: bool
) -> None:
    idle = ["critic.imitation_steps=0", "critic.steps_per_round=0"]
    assert load_settings(smallest, [*idle, *overrides]).critic_works == works


def test_overrides_are_toml_or_a_bare_word(smallest: Path) -> None:
    settings = load_settings(smallest, [
        "run.rounds=7", "tasks.family=basic_arithmetic", "learner.grpo.learning_rate=1e-5",
        "rewards.shuffled=true", "tasks.params={max_terms = 3}", "run.directory=runs/a b",
    ])  # fmt: skip
    assert settings.run.rounds == 7 and settings.run.directory == Path("runs/a b")
    assert settings.tasks.family == "basic_arithmetic"
    assert settings.learner.grpo == {"learning_rate": 1e-5}
    assert settings.rewards.shuffled is True and settings.tasks.params == {"max_terms": 3}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers()), min_size=1)
)
def test_the_last_override_wins(given: list[tuple[str, str, int]]) -> None:
    tables = apply_overrides({}, [f"{table}.{key}={value}" for table, key, value in given])
    last = {(table, key): value for table, key, value in given}
    assert {(t, k): v for t, keys in tables.items() for k, v in keys.items()} == last  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "rollout={placement='server', engine='transformers'}",
            'rollout.placement = "server" needs rollout.engine = "vllm"',
        ),
        ("rollout={urls={learner=['http://a:1'], critic=['http://a:2']}}", "rollout.urls needs"),
        ("rollout={placement='server', urls={learner=['http://a:1']}}", "each of learner and crit"),
        (
            "rollout={placement='server', urls={learner=['a:1'], critic=['http://a:2']}}",
            "'a:1' is not of the form http://host:port",
        ),
        (
            "rollout={placement='server', urls={learner=['http://a:1'], critic=['http://a:1']}}",
            "names a server twice",
        ),
        ("run.round=3", 'unknown key run.round in the configuration: did you mean "rounds"?'),
        (
            "monitor.consecutiv=3",
            "unknown key monitor.consecutiv in the configuration: did you mean",
        ),
        ("monitor.rules.token_entropi.weight=1", "token_entropi"),
        ("learner.temperature=0", "learner.temperature = 0: "),
        ("learner.dtype=float16", "learner.dtype = 'float16': "),
        ("pointing.chance_share=1.5", "pointing.chance_share = 1.5: "),
        ("run.seed=-1", "run.seed = -1: "),
        ('rewards.functions."mine.py:f"=nan', "mine.py:f = nan: Input should be a finite number"),
        ("rewards.timeout_seconds=inf", "rewards.timeout_seconds = inf: Input should be a finite"),
        ("rewards.timeout_seconds=1e9", "should be less than or equal to 86400"),
        ("learner.temperature=inf", "learner.temperature = inf: Input should be a finite number"),
        ("learner.grpo.beta=nan", "learner.grpo.beta = nan is no number"),
        ("learner.grpo.chat_template_kwargs=x", "chat_template_kwargs must be a table"),
        ("run.rounds=many", "run.rounds = 'many': "),
        ("learner.model.x=1", "model is a value, not a table"),
        ("learner", "is not of the form table.key=value"),
        (".rounds=3", "is not of the form table.key=value"),
        ("critic.model=", "critic.model is empty and there is no [sft] table"),
        ("rollout.max_model_len=64", "rollout.max_model_len = 64 leaves no room for a prompt"),
    ],
)
def test_a_wrong_key_or_value_names_itself(smallest: Path, override: str, told: str) -> None:
    with pytest.raises(UserError, match="") as refused:
        load_settings(smallest, [override])
    assert told in str(refused.value)
    assert not isinstance(refused.value, ValidationError), "pydantic's own text is no clear line"


def test_several_mistakes_are_told_together(smallest: Path) -> None:
    with pytest.raises(UserError, match=r"run\.seed .*; .*run\.round "):
        load_settings(smallest, ["run.seed=-1", "run.round=3"])


def test_a_key_with_dots_is_quoted_on_the_command_line(smallest: Path) -> None:
    for mark in "\"'":
        given = load_settings(smallest, [f"rewards.functions.{mark}mine.py:f{mark}=0.5"])
        assert given.rewards.functions == {"mine.py:f": 0.5}


def test_a_configuration_may_begin_with_a_byte_order_mark(smallest: Path) -> None:
    """As Notepad writes it; TOML is UTF-8, whatever the locale."""
    before = load_settings(smallest)
    smallest.write_bytes(b"\xef\xbb\xbf" + smallest.read_bytes())
    assert load_settings(smallest) == before


def test_a_tables_mistake_is_not_buried_in_the_table(smallest: Path) -> None:
    with pytest.raises(UserError) as refused:
        load_settings(smallest, ["tasks={dialect='free', prompt_template='no place'}"])
    assert str(refused.value) == "tasks.prompt_template must say where the {question} goes"
    given = f"{{pattern = '{'a' * 200}', serch = true}}"
    with pytest.raises(UserError, match="unknown parameter serch") as refused:
        load_settings(
            smallest, [f"tasks={{source='jsonl', verifier='regex', verifier_parameters={given}}}"]
        )
    assert "aaa" not in str(refused.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[run]\ndirectory = 'x'\n")
    with pytest.raises(UserError, match="learner is missing: add it"):
        load_settings(path)


def test_settings_are_frozen(smallest: Path) -> None:
    settings = load_settings(smallest)
    with pytest.raises(ValidationError):
        settings.run.rounds = 9  # type: ignore[misc]
    assert isinstance(settings, Settings)


def test_reading_settings_imports_no_torch(smallest: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.settings.load import load_settings; "
        f"load_settings(Path({str(smallest)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _tables(table: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A table and every table inside it, in lists and dictionaries, too."""
    yield table
    for field in table.model_fields.values():
        found, waiting = [], [field.annotation]
        while waiting:
            kind = waiting.pop()
            waiting += get_args(kind)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found.append(kind)
        for inner in found:
            yield from _tables(inner)


def test_every_field_says_what_it_does_in_a_whole_sentence() -> None:
    tables = set(_tables(Settings))
    assert {RolloutTable, MonitorSettings, SignalRule, Example} < tables
    for table in tables:
        for name, field in table.model_fields.items():
            said = field.description or ""
            whole = re.fullmatch(r"([A-Z]|vLLM )[^\n]*\.", said) and len(said.split()) >= 4
            assert whole, f"{table.__name__}.{name} needs a whole sentence, has {said!r}"


@pytest.mark.parametrize(
    ("source", "points"), [("", True), ("critic", True), ("code", False), ("chance", False)]
)
def test_a_run_whose_critic_points_at_nothing_offers_no_silence(
    smallest: Path, source: str, points: bool
) -> None:
    given = [f"pointing.source={source}"] if source else []
    monitor = load_settings(smallest, given).monitor
    assert ("silence_critic" in monitor.offers) is points is monitor.critic_points
    own = load_settings(smallest, [*given, "monitor.offers=['silence_critic']"]).monitor
    assert own.offers == ("silence_critic",), "what it says itself stays"


def test_what_engines_on_gpus_share_is_handed_to_vllm() -> None:
    table = RolloutTable(placement="server", gpu_memory_utilization=0.4, tensor_parallel_size=2)
    options = engine_options(table)
    assert (options["gpu_memory_utilization"], options["tensor_parallel_size"]) == (0.4, 2)
    alone = engine_options(RolloutTable())
    assert not {"gpu_memory_utilization", "tensor_parallel_size"} & alone.keys()
    with pytest.raises(ValueError, match=r'tensor_parallel_size = 2 needs .*placement = "server"'):
        RolloutTable(tensor_parallel_size=2)
