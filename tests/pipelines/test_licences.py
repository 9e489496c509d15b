"""Licences of models and sources: read where a card names them, and carried to the set's card."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from pipeline_cases import CONFIG
from set_cases import sum_record, write_set

from data.card import UNKNOWN
from data.dataset_folder import DatasetFolder
from data.records import Record
from data.sealed import seal
from data.shard import Shard
from pipelines.run.licence import model_licence, named_licence, source_licences
from pipelines.settings.load import load_settings
from pipelines.synthesis.merge import merge

MIXED = ("tasks.dialect=free", "tasks.family=", "tasks.params={}")
MODELS, SOURCES = {"owner/name": "llama3.2"}, {"case": "mit"}


def licensed(folder: Path, licence: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# Of it\n")
    return folder


def by(model: str, number: int) -> Record:
    return seal(replace(sum_record(number), model=model))


def header(path: Path) -> dict:
    return yaml.safe_load((path / "README.md").read_text().split("---\n", 2)[1])


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        ("---\ntags: [x]\n---\n", UNKNOWN),
        ("# A model without front matter\n", UNKNOWN),
        ("---\n- a list\n---\n", UNKNOWN),
        ("---\nlicense: [\n---\n", UNKNOWN),
    ],
)
def test_a_cards_front_matter_names_a_licence(tmp_path: Path, text: str, licence: str) -> None:
    assert named_licence(str(tmp_path), "model") == UNKNOWN
    (tmp_path / "README.md").write_text(text)
    assert named_licence(str(tmp_path), "model") == licence
    assert named_licence(str(tmp_path / "rows.jsonl"), "dataset") == licence
    assert named_licence("nobody/has-this", "model") == UNKNOWN


def test_a_trained_checkpoint_has_the_licence_of_what_it_was_trained_from(tmp_path: Path) -> None:
    base = licensed(tmp_path / "base", "mit")
    settings = load_settings(CONFIG, [f"learner.model={base}"])
    learner = tmp_path / "run" / "checkpoints" / "round_00000" / "learner"
    adapter = tmp_path / "adapter"
    for folder in (learner, adapter):
        folder.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert model_licence(str(base), settings) == "mit"
    assert model_licence(str(learner), settings) == "mit"
    assert model_licence(str(adapter), settings) == "mit"
    assert model_licence(str(learner.with_name("critic")), settings) == UNKNOWN, "a cold start"
    assert model_licence(str(tmp_path / "other"), settings) == UNKNOWN


def test_each_source_of_a_mixture_has_its_own(tmp_path: Path) -> None:
    mine = licensed(tmp_path / "mine", "cc-by-4.0") / "rows.jsonl"
    parts = f'[{{ source = "jsonl", path = "{mine}" }}, {{ family = "basic_arithmetic" }}]'
    settings = load_settings(CONFIG, [*MIXED, f"tasks.mixture={parts}"])
    assert source_licences(settings.tasks) == {"rows.jsonl": "cc-by-4.0"}


@pytest.mark.parametrize(
    ("models", "sources", "licence"),
    [
        ({"owner/name": "mit"}, {"case": "mit"}, "mit"),
        (MODELS, SOURCES, "other"),
        ({"owner/name": UNKNOWN}, SOURCES, "unknown"),
        ({}, SOURCES, "unknown"),
    ],
)
def test_a_set_claims_no_licence_that_nobody_gave(
    tmp_path: Path, models: dict[str, str], sources: dict[str, str], licence: str
) -> None:
    path = write_set(tmp_path / "set", [[by("owner/name", 1)]])
    folder = DatasetFolder(path)
    progress = folder.progress()
    assert progress is not None
    folder.save(replace(progress, licences={"models": models, "sources": sources}))
    folder.write_card()
    card = (path / "README.md").read_text()
    assert header(path)["license"] == licence
    assert f"by `owner/name`: {models.get('owner/name', UNKNOWN)}" in card
    assert "problems of `case`: mit" in card and "`generate.json`" in card


def test_merging_keeps_what_any_shard_knows(tmp_path: Path) -> None:
    parts = []
    for number, models in ((1, {"owner/name": UNKNOWN}), (2, MODELS)):
        path = tmp_path / str(number)
        write_set(path, [[by("owner/name", number)]], shard=Shard(number, 2))
        folder = DatasetFolder(path)
        progress = folder.progress()
        assert progress is not None
        folder.save(replace(progress, licences={"models": models, "sources": SOURCES}))
        parts.append(path)
    for order in (parts, parts[::-1]):
        out = tmp_path / f"out of {order[0].name}"
        merge(out, order)
        assert "by `owner/name`: llama3.2" in (out / "README.md").read_text()


def test_the_hubs_loader_reads_a_set_by_its_folder_alone(tmp_path: Path) -> None:
    """As the hub does after an upload: the card says which files are the data."""
    batches = [[sum_record(n, round_=n), sum_record(n, reason="wrong", seed=1)] for n in range(3)]
    path = write_set(tmp_path / "set", batches)
    assert {item.name for item in path.iterdir()} > {"train", "rejected", "batches.jsonl"}
    loaded = datasets.load_dataset(str(path), cache_dir=tmp_path / "cache")
    assert list(loaded) == ["train"]
    accepted = [record.id for record in DatasetFolder(path).accepted.records()]
    assert loaded["train"]["id"] == accepted and len(accepted) == 3
