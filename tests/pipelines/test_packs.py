"""Task packs: ours and the documentation's judge as they say, and nothing beside one is lost."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from doc_blocks import block

from data.records import SPLITS
from data.source import draw_up_to
from pipelines.errors import UserError
from pipelines.game.curriculum import build_source
from pipelines.game.referee import Referee, verifiers_of
from pipelines.rollouts.sample import Sample
from pipelines.run.named import settings_of
from pipelines.settings.load import dump_settings, load_settings, parse_settings
from pipelines.settings.tables import Settings
from rewards.proof import prove, require
from rewards.verifiers import Verifiers

PACKS = Path(__file__).resolve().parents[2] / "configs" / "packs"
BARE = "[run]\ndirectory = 'x'\n[learner]\nmodel = 'm'\n[critic]\nmodel = 'm'\n"
PEN = '{"question": "A pen costs $1.35'


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    path = tmp_path / "bare.toml"
    path.write_text(BARE)
    return path


@pytest.fixture
def change(tmp_path: Path) -> Path:
    """The pack that docs/use.md builds, its blocks as they stand there."""
    folder = tmp_path / "change"
    folder.mkdir()
    rows = block(PEN).splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(rows[:4]))
    (folder / "test.jsonl").write_text("".join(rows[4:]))
    (folder / "pack.toml").write_text(block("# change/pack.toml"))
    (folder / "prompt.txt").write_text(block("{question}\nCount in cents"))
    (folder / "steps.py").write_text(block("# change/steps.py"))
    return folder


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


def packed(bare: Path, folder: Path, *overrides: str) -> Settings:
    return load_settings(bare, [f"tasks.pack={folder}", *overrides])


@pytest.mark.parametrize("name", sorted(one.name for one in PACKS.iterdir()))
def test_the_verifiers_of_our_packs_prove_themselves(
    verifiers: Verifiers, bare: Path, name: str
) -> None:
    """References pass, planted wrong answers do not, and a problem says how to answer."""
    settings = packed(bare, PACKS / name)
    source = build_source(settings)
    tasks = source.draw("test", 8, 0)
    require(prove(verifiers, tasks, 4), min_tpr=1.0, min_tnr=0.95)
    asked = Referee(settings, verifiers).problem(tasks[0])
    how = "fenced block" if name == "python" else "boxed"
    assert tasks[0].question in str(asked) and how in str(asked)
    assert parse_settings(json.loads(dump_settings(settings))) == settings, "a run's own file"


def test_every_program_of_the_pack_passes_its_tests_and_most_of_it_does_not(
    verifiers: Verifiers, bare: Path
) -> None:
    settings = packed(bare, PACKS / "python")
    source, referee = build_source(settings), Referee(settings, verifiers)
    tasks = [t for split in SPLITS for t in draw_up_to(source, split, 32, 0)]
    assert len(tasks) == 32
    replies = [f"```python\n{task.reference}\n```" for task in tasks]
    cut = ["\n".join([*reply.splitlines()[:-2], "    return None", "```"]) for reply in replies]
    for texts, passes in ((replies, True), (cut, False)):
        samples = [Sample(text, [], [], truncated=False) for text in texts]
        read = referee.read_all([(t, s, "") for t, s in zip(tasks, samples, strict=True)])
        assert [verdict.passed for _, verdict in read] == [passes] * len(tasks)


def test_a_pack_as_the_documentation_builds_it(bare: Path, change: Path) -> None:
    settings = packed(bare, change)
    assert settings.tasks.path == str(change / "train.jsonl")
    with closing(verifiers_of(settings.rewards)) as verifiers:
        source, referee = build_source(settings), Referee(settings, verifiers)
        (task,) = source.draw("test", 1, 0)
        assert "lamp" in task.question
        verifiers.prove_own_rewards(task)
        text = "5000 cents - 1820 cents = 3180 cents\n3180 / 100 = $31.80\n\\boxed{31.80}"
        solution, verdict = referee.read(task, Sample(text, [], [], truncated=False))
        assert verdict.passed and verifiers.own_rewards([(task, solution)])[0].steps == (0.2, 0, 0)


def test_the_configuration_lies_over_the_pack(bare: Path, change: Path) -> None:
    over = packed(bare, change, "tasks.answer_in=hashes", "rewards.format_weight=0.5")
    assert over.tasks.answer_in == "hashes" and over.tasks.family == "change"
    assert over.rewards.format_weight == 0.5 and len(over.rewards.functions) == 1
    (change / "rubric.md").write_text("Grade {completion}. End with Score: N")
    assert packed(bare, change).rewards.judge is None, "a rubric alone asks nobody"
    judge = "rewards.judge={base_url='http://localhost:1/v1', model='m'}"
    asked = packed(bare, change, judge).rewards.judge
    assert asked is not None and asked.prompt.startswith("Grade {completion}")
    (change / "pack.toml").write_text(
        "[tasks]\nfamily = 'gcd'\n[rewards.judge]\nbase_url = 'http://localhost:1/v1'\nmodel = 'm'"
    )
    own = packed(bare, change).rewards.judge
    assert own is not None and own.prompt == asked.prompt, "the pack's own judge is asked it, too"
    (change / "pack.toml").write_text("[tasks]\nfamily = 'gcd'\n[rewards]\njudge = 'x'")
    with pytest.raises(UserError, match=r"rewards\.judge"):
        packed(bare, change, "rewards.judge.model=m")


def test_a_file_of_a_dataset_is_the_packs_also_where_it_is_missing(
    bare: Path, change: Path
) -> None:
    """It was read from where the command was given, where one of that name may lie."""
    for given, path in (
        ("rows.csv", change / "rows.csv"), ("./rows", change / "rows"), ("../a.json", None),
        ("openai/gsm8k", Path("openai/gsm8k")), ("/abs/a.csv", Path("/abs/a.csv")),
    ):  # fmt: skip
        (change / "pack.toml").write_text(f"[tasks]\nsource = 'dataset'\npath = '{given}'")
        assert Path(packed(bare, change).tasks.path) == (path or change / given)


def test_the_files_of_a_packs_mixture_are_its_own_and_its_table_precedes_its_texts(
    bare: Path, change: Path
) -> None:
    part = "[[tasks.mixture]]\nsource = 'jsonl'\nfamily = '{0}'\npath = '{0}.jsonl'\n"
    table = "[tasks]\nprompt_template = 'Say {question}'\n"
    (change / "pack.toml").write_text(table + part.format("train") + part.format("test"))
    tasks = packed(bare, change).tasks
    assert [Path(one.path) for one in tasks.mixture] == [
        change / "train.jsonl",
        change / "test.jsonl",
    ]
    assert tasks.prompt_template == "Say {question}"


@pytest.mark.parametrize("key", ["tasks.pack={}", "'tasks'.pack={}", "tasks={{pack='{}'}}"])
def test_a_pack_beside_a_run_brings_its_tasks_and_rewards(
    tmp_path: Path, bare: Path, change: Path, key: str
) -> None:
    """Written as it may be; the run's defaults are nothing that it set."""
    run = tmp_path / "run"
    run.mkdir()
    own = ["tasks.family=gcd", f"run.directory={run}", "rewards.length_penalty=0.25"]
    (run / "config.json").write_text(dump_settings(load_settings(bare, own)))
    pack, functions = (change / "pack.toml").read_text(), "[rewards.functions]"
    timed = pack.replace(functions, f"[rewards]\ntimeout_seconds = 33\n{functions}")
    (change / "pack.toml").write_text(timed)
    found = settings_of(run, None, [key.format(change)])
    assert found.tasks.family == "change" and found.tasks.answer_in == "boxed"
    assert found.rewards.timeout_seconds == 33 and found.rewards.length_penalty == 0.25
    assert settings_of(run, None, ["tasks.pack="]).tasks.family == "gcd", "none is named"


@pytest.mark.parametrize(
    ("folder", "override", "message"),
    [
        ("nowhere", "", r"there is no nowhere.pack\.toml: name a folder"),
        ("{change}", "tasks.path=other.jsonl", r"sets tasks\.path beside it: remove one"),
        ("{change}", "tasks.params={max_terms=3}", r"sets tasks\.params beside it"),
        ("{change}", "tasks.answer_im=any", r"unknown key tasks\.answer_im"),
    ],
)
def test_a_pack_that_cannot_be_what_was_meant_is_refused(
    bare: Path, change: Path, folder: str, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        packed(bare, Path(folder.format(change=change)), *filter(None, [override]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[tasks", "not valid TOML"),
        ("[learner]\nmodel = 'm'", r"holds the tables \[tasks\] and \[rewards\] alone: learner"),
        ("[tasks]\nfamly = 'gcd'", r"unknown key tasks\.famly.*family"),
        ("tasks = 3", r"tasks = 3 is no table: write \[tasks\]"),
        ("[tasks]\nmixture = 3", r"tasks\.mixture = 3: Input should be"),
        ("[tasks]\npack = 'other'\nfamily = 'gcd'", "'other': a pack names no other one"),
    ],
)
def test_a_faulty_pack_is_named(bare: Path, change: Path, content: str, message: str) -> None:
    (change / "pack.toml").write_text(content)
    with pytest.raises(UserError, match=message):
        packed(bare, change)
