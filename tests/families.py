"""Families of chat templates, each with its special tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A template family: its special tokens, which of them begin a text and end a turn."""

    tokens: tuple[str, ...]
    eos: str
    bos: str | None = None
    stop: str | None = None  # the end of a turn, where it is not eos


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEEPSEEK_TOOLS = "calls▁begin calls▁end call▁begin call▁end sep outputs▁begin outputs▁end output▁begin output▁end"
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    *(f"<｜tool▁{name}｜>" for name in DEEPSEEK_TOOLS.split(" ")),
)
MISTRAL = (
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
FAMILIES = {
    "qwen2_5": Family((*CHATML, "<tool_call>", "</tool_call>"), "<|im_end|>"),
    "qwen3": Family((*CHATML, "<tool_call>", "</tool_call>", "<think>", "</think>"), "<|im_end|>"),
    "llama3": Family(
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "gemma2": Family(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>", "<end_of_turn>"),
    "gemma3": Family(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>", "<end_of_turn>"),
    "mistral_v03": Family(MISTRAL, "</s>", "<s>"),
    "phi3": Family(
        ("<s>", "<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        "<|endoftext|>",
        "<s>",
        "<|end|>",
    ),
    "phi4": Family((*CHATML, "<|im_sep|>"), "<|im_end|>"),
    "smollm2": Family(CHATML, "<|im_end|>"),
    "smollm3": Family((*CHATML, "<think>", "</think>", "<tool_call>", "</tool_call>"), "<|im_end|>"),
    "deepseek_v3": Family(DEEPSEEK, "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "deepseek_r1": Family(DEEPSEEK, "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "zephyr": Family(("<s>", "</s>"), "</s>", "<s>"),
    "llama2": Family(("<s>", "</s>"), "</s>", "<s>"),
}
