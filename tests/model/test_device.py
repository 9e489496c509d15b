"""Any device: V3's full shape without memory, an import that touches no accelerator, one path."""

import ast
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from parity_cases import VOCAB, YARN, tokens
from weights import largest_change, make_weights_matter

from model.checkpoint.naming import multi_token_copies, multi_token_prefixes
from model.configuration import SparringMoeConfig, tiny_config
from model.convert_fp8 import convert_to_fp8, fp8_parameters
from model.fp8.quantize import Fp8Recipe
from model.modeling import SparringMoeForCausalLM

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / "model" / "fp8" / "kernel.py"  # written for one kind of accelerator
FILES = sorted(
    path for folder in ("model", "pipelines", "rewards", "critic", "data")
    for path in (ROOT / folder).rglob("*.py") if path != KERNEL
)  # fmt: skip
# What the hub counts in the files of deepseek-ai/DeepSeek-V3, to the last number.
RELEASED = {
    torch.float8_e4m3fn: 680_571_043_840,
    torch.bfloat16: 3_918_786_560,
    torch.float32: 41_555_600,
}
MAIN_MODEL = 671_026_419_200  # "671B"; with the multi-token layer and its copies "685B"


def released_model() -> SparringMoeForCausalLM:
    """DeepSeek-V3 with its multi-token layer; the config's defaults are its shapes."""
    with torch.device("meta"):
        return SparringMoeForCausalLM(SparringMoeConfig(num_nextn_predict_layers=1))


def test_the_full_shape_has_the_published_number_of_parameters() -> None:
    model = released_model()
    prefixes = multi_token_prefixes(61, 1)
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    assert sum(n for name, n in sizes.items() if not name.startswith(prefixes)) == MAIN_MODEL
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_an_fp8_checkpoint_of_the_full_shape_has_the_published_numbers() -> None:
    model = released_model().to(torch.bfloat16)
    convert_to_fp8(model, Fp8Recipe())
    stored = model.state_dict()
    stored |= {copy: stored[name] for copy, name in multi_token_copies(model.config).items()}
    counts: Counter[torch.dtype] = Counter()
    for name, weight, _ in fp8_parameters(model):
        del stored[name]
        # On disk an expert's gate and up are two matrices; whole blocks, so as many of them.
        *stack, rows, columns = weight.shape
        blocks = math.prod(stack) * math.ceil(rows / 128) * math.ceil(columns / 128)
        counts += Counter({torch.float8_e4m3fn: weight.numel(), torch.float32: blocks})
    for tensor in stored.values():
        counts[tensor.dtype] += tensor.numel()
    assert counts == RELEASED
    assert sum(counts.values()) == 684_531_386_000


_IMPORT = """
import torch
before = torch.accelerator.is_available() and torch.accelerator.memory_allocated()
import model
config = model.tiny_config(40)
with torch.device("meta"):
    model.SparringMoeForCausalLM(config)
assert not torch.cuda.is_initialized()
assert before == (torch.accelerator.is_available() and torch.accelerator.memory_allocated())
"""


def test_importing_the_model_touches_no_accelerator(checkout: Path) -> None:
    imported = subprocess.run(
        [sys.executable, "-c", _IMPORT], cwd=checkout, capture_output=True, text=True
    )
    assert imported.returncode == 0, imported.stderr[-2000:]


def test_only_the_kernel_names_a_kind_of_accelerator() -> None:
    assert _accelerators_named(KERNEL)
    assert not [named for file in FILES for named in _accelerators_named(file)]


def _accelerators_named(file: Path) -> list[str]:
    """The lines of a file that name one, docstrings aside."""
    tree = ast.parse(file.read_text())
    docs = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("cuda", "xpu", "mps", "is_cuda"))
        or (isinstance(node, ast.Constant) and node not in docs and "cuda" in str(node.value))
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", [{}, {"rope_parameters": YARN, "q_lora_rank": 48}])
def test_an_accelerator_computes_what_the_cpu_does(overrides: dict) -> None:
    device = torch.accelerator.current_accelerator()
    config = tiny_config(VOCAB, **overrides, num_nextn_predict_layers=1)
    ours = make_weights_matter(SparringMoeForCausalLM(config))
    there = SparringMoeForCausalLM(ours.config)
    there.load_state_dict(ours.state_dict())
    there.to(device)
    ids_BT = tokens(3, 40)
    losses = [
        model.train()(input_ids=ids, labels=ids)
        for model, ids in ((ours, ids_BT), (there, ids_BT.to(device)))
    ]
    assert largest_change(losses[0].logits, losses[1].logits.cpu()) <= 1e-4
    assert abs(losses[0].loss - losses[1].loss.cpu()).item() <= 1e-5
    for outputs in losses:
        outputs.loss.backward()
    for (name, a), b in zip(ours.named_parameters(), there.parameters(), strict=True):
        assert largest_change(a.grad, b.grad.cpu()) <= 1e-4, name


@pytest.mark.gpu
def test_decoding_on_an_accelerator_equals_the_cpu() -> None:
    device = torch.accelerator.current_accelerator()
    ours = make_weights_matter(SparringMoeForCausalLM(tiny_config(40)).eval())
    ids_BT = tokens(2, 12)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    wanted = ours.generate(input_ids=ids_BT, **options)
    found = ours.to(device).generate(input_ids=ids_BT.to(device), **options)
    assert torch.equal(wanted, found.cpu())
