"""Checkpoints whose config names multi-token layers that they hold in full, in part, or not at all.

Stock transformers saves the config's count of these layers and none of their tensors: V3's config
counts one by default, V3.2's whatever DeepSeek's own config said.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fp8_checkpoints import write_deepseek
from parity_cases import tokens
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v32 import DeepseekV32Config, DeepseekV32ForCausalLM
from weights import ROUNDING, largest_change, make_weights_matter

from model.checkpoint.naming import multi_token_copies, named_checkpoint_tensors
from model.configuration import SparringMoeConfig, tiny_config
from model.modeling import SparringMoeForCausalLM, SparringSparseForCausalLM

WHOLE = "model.safetensors"
LAYER = "model.layers.3."  # the first after the model's own three
SHAPE = {
    **dict(vocab_size=40, hidden_size=64, intermediate_size=96, moe_intermediate_size=32),
    **dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=48),
    **dict(n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1, kv_lora_rank=32),
    **dict(first_k_dense_replace=1, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32),
    "max_position_embeddings": 512,
}  # fmt: skip
INDEXER = {"index_topk": 8, "index_head_dim": 32, "index_n_heads": 8}


def stock(kind: str) -> PreTrainedModel:
    """transformers' own model, with weights that matter."""
    if kind == "v3":
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**SHAPE))
    else:
        config = DeepseekV32Config(**SHAPE, **INDEXER, num_nextn_predict_layers=1)
        model = DeepseekV32ForCausalLM(config)
    return make_weights_matter(model.eval())


def loads_silently(directory: Path, caplog: pytest.LogCaptureFixture) -> SparringMoeForCausalLM:
    caplog.clear()
    model = SparringMoeForCausalLM.from_pretrained(directory)
    assert not caplog.records
    return model


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "model")


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "100KB"}], ids=["whole", "sharded"])
@pytest.mark.parametrize("kind", ["v3", "v32"])
def test_a_stock_checkpoint_loads_without_the_layers_and_says_so_once(
    kind: str, options: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference, ids_BT = stock(kind), tokens(2, 24)
    reference.save_pretrained(tmp_path, **options)
    assert json.loads((tmp_path / "config.json").read_text())["num_nextn_predict_layers"] == 1
    assert (tmp_path / WHOLE).exists() != bool(options)
    own = SparringMoeForCausalLM if kind == "v3" else SparringSparseForCausalLM
    for loader in (own, AutoModelForCausalLM, own):
        ours = loader.from_pretrained(tmp_path).eval()
        assert type(ours) is own
        assert ours.config.num_nextn_predict_layers == 0 and len(ours.model.layers) == 3
        with torch.no_grad():
            logits = [
                model(input_ids=ids_BT, use_cache=False).logits for model in (ours, reference)
            ]
        assert largest_change(*logits) <= ROUNDING
    (warning,) = caplog.records
    assert warning.getMessage().startswith(
        f"{tmp_path}: the config has num_nextn_predict_layers=1, but the checkpoint has no tensor"
    )


def test_saving_it_again_writes_a_config_that_is_true(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock("v3").save_pretrained(tmp_path / "stock")
    SparringMoeForCausalLM.from_pretrained(tmp_path / "stock").save_pretrained(tmp_path / "ours")
    assert DeepseekV3Config.from_pretrained(tmp_path / "ours").num_mtp_layers == 0
    loads_silently(tmp_path / "ours", caplog)
    theirs, ours = (load_file(tmp_path / name / WHOLE) for name in ("stock", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_a_callers_config_is_not_changed(tmp_path: Path) -> None:
    stock("v3").save_pretrained(tmp_path)
    config = SparringMoeConfig.from_pretrained(tmp_path)
    model = SparringMoeForCausalLM.from_pretrained(tmp_path, config=config)
    assert config.num_nextn_predict_layers == 1
    assert model.config.num_nextn_predict_layers == 0


def test_a_caller_who_asks_for_no_such_layers_is_not_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock("v3").save_pretrained(tmp_path)
    SparringMoeForCausalLM.from_pretrained(tmp_path, num_nextn_predict_layers=0)
    assert not caplog.records


@pytest.mark.parametrize("loader", [SparringMoeForCausalLM, AutoModelForCausalLM])
def test_it_loads_by_its_name_on_a_hub(
    loader: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository, commit = tmp_path / "models--org--stock", "a" * 40
    reference = stock("v3")
    reference.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    # A name per loader: a warning is said once per name.
    name = f"org/stock-{loader.__name__}"
    repository.rename(tmp_path / f"models--{name.replace('/', '--')}")
    model, info = loader.from_pretrained(name, cache_dir=tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and model.config.num_nextn_predict_layers == 0
    assert torch.equal(model.lm_head.weight, reference.lm_head.weight)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [name]


def test_an_fp8_checkpoint_without_the_layers_loads_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exact = write_deepseek(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    model = SparringMoeForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = dict(named_checkpoint_tensors(model))
    assert ours.keys() == exact.keys() and len(caplog.records) == 1
    assert all(torch.equal(ours[n], torch.from_numpy(numbers)) for n, numbers in exact.items())


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, with two multi-token layers and their copies of embedding and head."""
    directory = tmp_path_factory.mktemp("complete")
    config = tiny_config(40, hidden_size=64, num_nextn_predict_layers=2)
    SparringMoeForCausalLM(config).save_pretrained(directory)
    return directory


def rewritten(source: Path, directory: Path, keep: Callable[[str], bool], **keys: object) -> Path:
    """A copy with some of the tensors, and other keys in its config; None leaves a key out."""
    config = json.loads((source / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in keys}
    config |= {key: value for key, value in keys.items() if value is not None}
    tensors: dict[str, Tensor] = load_file(source / WHOLE)
    (directory / "config.json").write_text(json.dumps(config))
    save_file({n: t for n, t in tensors.items() if keep(n)}, directory / WHOLE, {"format": "pt"})
    return directory


COPIES = {*multi_token_copies(tiny_config(40, num_nextn_predict_layers=2))}


@pytest.mark.parametrize(
    ("keep", "missing"),
    [
        (lambda name: name != f"{LAYER}eh_proj.weight", r"model\.layers\.3\.eh_proj\.weight"),
        (
            lambda name: name != f"{LAYER}mlp.experts.5.up_proj.weight",
            r"3\.mlp\.experts\.5\.up_proj\.weight",
        ),
        (lambda name: not name.startswith("model.layers.4."), r"model\.layers\.4\.\S+"),
        (lambda name: not name.startswith(LAYER), r"model\.layers\.3\.\S+"),
        (lambda name: name < LAYER or name > "model.layers.5" or name in COPIES, r"layers\.3\.\S+"),
    ],
    ids=["a projection", "an expert", "the second layer", "the first layer", "all but copies"],
)
def test_layers_that_are_there_in_part_are_refused(
    complete: Path, tmp_path: Path, keep: Callable[[str], bool], missing: str
) -> None:
    rewritten(complete, tmp_path, keep)
    with pytest.raises(ValueError, match=rf"tensor \S*{missing} is missing \(expected shape"):
        SparringMoeForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("copies", [True, False], ids=["with copies", "without copies"])
def test_complete_layers_load_with_and_without_their_copies(
    complete: Path, tmp_path: Path, copies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rewritten(complete, tmp_path, lambda name: copies or name not in COPIES)
    assert len(loads_silently(tmp_path, caplog).model.layers) == 5


@pytest.mark.parametrize("count", [None, 0, 1])
def test_layers_that_the_config_does_not_count_are_refused(
    complete: Path, tmp_path: Path, count: int | None
) -> None:
    rewritten(complete, tmp_path, lambda _: True, num_nextn_predict_layers=count)
    message = r"model\.layers\.[34]\.\S+ belongs to no part .*num_nextn_predict_layers"
    with pytest.raises(ValueError, match=message):
        SparringMoeForCausalLM.from_pretrained(tmp_path)


def test_layers_that_only_the_caller_names_are_missed(complete: Path, tmp_path: Path) -> None:
    own = ("model.layers.3.", "model.layers.4.")
    rewritten(complete, tmp_path, lambda n: not n.startswith(own), num_nextn_predict_layers=0)
    with pytest.raises(ValueError, match=r"tensor model\.layers\.3\.\S+ is missing"):
        SparringMoeForCausalLM.from_pretrained(tmp_path, num_nextn_predict_layers=1)


@pytest.mark.parametrize("count", ["1", True, -1])
def test_a_count_that_is_not_one_is_refused(complete: Path, tmp_path: Path, count: object) -> None:
    rewritten(complete, tmp_path, lambda _: True, num_nextn_predict_layers=count)
    with pytest.raises(ValueError, match="num_nextn_predict_layers must be an integer of at least"):
        SparringMoeForCausalLM.from_pretrained(tmp_path)
