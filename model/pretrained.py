"""How a model is initialised, saved and loaded: what our models add to `PreTrainedModel`.

Names, files and types on disk are in `checkpoint/`; what the model computes is in `modeling.py`.
"""

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from model.checkpoint.absent import without_absent_layers
from model.checkpoint.files import local_file, remote_file, replacing
from model.checkpoint.fp8 import (
    dequantized_arguments,
    refuse_remote_fp8,
    store_quantization,
    stored_quantization,
)
from model.checkpoint.naming import (
    check_directory,
    check_tensors,
    multi_token_copies,
    named_checkpoint_tensors,
    split_experts,
)
from model.configuration import SparringMoeConfig
from model.convert_fp8 import fp8_tensors
from model.experts.routed import RoutedExperts
from model.experts.router import Router
from model.norm import RMSNorm


class SparringPreTrainedModel(PreTrainedModel):
    """What both our models share; the layers themselves are the subclass's."""

    config_class = SparringMoeConfig
    config: SparringMoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer", "MultiTokenLayer")
    _skip_keys_device_placement = ("past_key_values",)
    _keep_in_fp32_modules_strict = ("e_score_correction_bias",)
    _keys_to_ignore_on_load_unexpected = (
        r"layers\.\d+\.(embed_tokens|shared_head\.head)\.weight$",
    )
    _supports_sdpa = True

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *,
        fp8: bool = False,
        **kwargs: object,
    ) -> None:
        """Write config and weights under DeepSeek-V3's names, experts split.

        An interrupted save leaves the former checkpoint, or a directory that does not load.

        Args:
            is_main_process: False writes nothing, as transformers' does.
            state_dict: gathered weights under our in-memory names (as a trainer passes); the
                model's own if None.
            fp8: write the weights of FP8 layers as the forward pass quantised them.

        Raises:
            ValueError: `fp8`, but `convert_to_fp8` was not called, or with `push_to_hub`; or the
                weights are not this model's, as those of a model that LoRA wraps are not.
        """
        named = dict(
            named_checkpoint_tensors(self) if state_dict is None else split_experts(state_dict)
        )
        if is_main_process:  # other ranks may have been handed nothing
            with torch.device("meta"):
                check_tensors(named, type(self)(self.config), "the weights to save")
            for copy, original in multi_token_copies(self.config).items():
                named[copy] = named[original].clone()
        if fp8:
            if kwargs.get("push_to_hub"):
                raise ValueError(
                    "save FP8 to a directory first, then upload that: not both at once"
                )
            named = dict(fp8_tensors(self, named.items()))
        tensors = {name: tensor.contiguous() for name, tensor in named.items()}
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", os.path.basename(os.path.abspath(save_directory)))
        with replacing(save_directory, write=is_main_process) as folder:
            super().save_pretrained(
                folder, is_main_process, tensors, save_original_format=False, **kwargs
            )
            if fp8 and is_main_process:
                store_quantization(folder)
        self.config.architectures = [self.config.disk_architecture]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args, **kwargs
    ):  # type: ignore[no-untyped-def]
        """Load a DeepSeek-V3 style checkpoint, complete and of the right shapes and types.

        One in FP8 is dequantised: `convert_to_fp8` then computes with the very same numbers. Where
        the config names multi-token layers of which the checkpoint has no tensor, as stock
        transformers saves them, the model has no such layers, and a warning says so.

        Raises:
            ValueError: a tensor or file is missing, unknown or broken; the message names it.
        """
        path = source = pretrained_model_name_or_path
        wants_info = kwargs.pop("output_loading_info", False)
        if path is not None and kwargs.get("state_dict") is None:
            if not os.path.isdir(path):
                refuse_remote_fp8(path, kwargs)
                find = partial(remote_file, path, arguments=kwargs)
                kwargs = without_absent_layers(str(path), find, kwargs)
            else:
                path = source = Path(path, kwargs.pop("subfolder", None) or "")
                kwargs = cls._checked_arguments(path, kwargs)
                path = None if "state_dict" in kwargs else path
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                raise ValueError(f"checkpoint {source} has {kind}: {sorted(info[kind])[:5]}")
        if path is None and source is not None:
            model.name_or_path = model.config.name_or_path = str(source)  # what an adapter records
        return (model, info) if wants_info else model

    @classmethod
    def _checked_arguments(cls, directory: Path, arguments: dict) -> dict:
        """What transformers' loader needs for a directory that has passed every check."""
        in_fp8 = stored_quantization(directory) is not None
        if in_fp8 and arguments.get("quantization_config") is not None:
            raise ValueError("leave out quantization_config: the checkpoint has its own")
        find = partial(local_file, directory)
        arguments = without_absent_layers(str(directory), find, arguments)
        config = arguments.pop("config", None)
        # The type is the loader's to interpret: a config would take "auto" for a type's name.
        types = {key: arguments.pop(key) for key in ("dtype", "torch_dtype") if key in arguments}
        if not isinstance(config, SparringMoeConfig):
            config, arguments = cls.config_class.from_pretrained(
                config or directory, return_unused_kwargs=True, **arguments
            )
        with torch.device("meta"):
            check_directory(directory, cls(config))
        if in_fp8:
            return {**arguments, **types, **dequantized_arguments(directory, config)}
        return {**arguments, **types, "config": config}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
            if module.padding_idx is not None and not getattr(
                module.weight, "_is_hf_initialized", False
            ):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Router):
            init.normal_(module.weight, std=std)
            init.zeros_(module.e_score_correction_bias)
        elif isinstance(module, RoutedExperts):
            init.normal_(module.gate_up_proj, std=std)
            init.normal_(module.down_proj, std=std)
