"""Import what the loop stands on and say in one line what to do where that fails.

Run by `make setup` with the environment's own Python. Imports the modules that the loop really
uses: `import transformers` alone succeeds in environments where its first model class fails.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable

REINSTALL = "run `make distclean setup`; if it fails again, pick another build with TORCH_PIP_ARGS"
MISMATCHED = ("torchvision", "torchaudio", "torchcodec")


def check_torch() -> str:
    """Run one kernel; returns a description of the build."""
    torch = importlib.import_module("torch")
    torch.ones(2, 2) @ torch.ones(2, 2)
    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    return f"{build}, {torch.cuda.device_count()} GPUs, {torch.get_num_threads()} threads"


def check_transformers() -> str:
    """Import a model class, which pulls in torchvision where one is installed."""
    importlib.import_module("transformers.models.deepseek_v3.modeling_deepseek_v3")
    return "model classes import"


def check_vllm() -> str:
    """Import the engine and look up a kernel of its own extension (optional: may be absent)."""
    if importlib.util.find_spec("vllm") is None:
        return 'not installed: set rollout.engine = "transformers" in the config'
    importlib.import_module("vllm.entrypoints.llm")
    platform = importlib.import_module("vllm.platforms").current_platform
    platform.import_kernels()
    _ = importlib.import_module("torch").ops._C.silu_and_mul  # AttributeError: kernels not loaded
    return f"engine and {platform.device_type} kernels import"


def check_trl() -> str:
    """Import the trainer that the roles subclass."""
    importlib.import_module("trl.trainer.grpo_trainer")
    return "GRPOTrainer imports"


CHECKS: dict[str, tuple[Callable[[], str], str]] = {
    "torch": (check_torch, REINSTALL),
    "transformers": (check_transformers, REINSTALL),
    "vllm": (check_vllm, "its build must match torch: " + REINSTALL + ", or do without vLLM"),
    "trl": (check_trl, REINSTALL),
}


def installed(name: str) -> str | None:
    """Version of a distribution, None where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def explain(name: str, error: Exception, advice: str) -> str:
    """One line with the cause and the remedy of a failed import."""
    present = [other for other in MISMATCHED if installed(other)]
    if name != "torch" and present:
        advice = (
            "torchvision and its kin must be of the same build as torch: "
            f"run `{sys.executable} -m pip uninstall {' '.join(present)}`, then `make setup`"
        )
    cause = " ".join(str(error).split())[:300]
    return f"{name} does not work: {type(error).__name__}: {cause}\n  -> {advice}"


def main() -> int:
    """Check each library; returns the exit status."""
    for name, (check, advice) in CHECKS.items():
        started = time.perf_counter()
        try:
            finding = check()
        except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
            print(explain(name, error, advice), file=sys.stderr)
            return 1
        version = installed(name) or installed(f"{name}-cpu") or ""
        seconds = time.perf_counter() - started
        print(f"  {name:<13}{version:<14}{finding} ({seconds:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
