"""Tokenizers: loaded without torch as AutoTokenizer loads them, padded safely, refused when unsound."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import CHAT_TEMPLATE, TEXT, save_llama
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from finetune.errors import UserError
from finetune.model_files import ModelFacts, inspect_model
from finetune.tokenizer import (
    MAX_TEMPLATE,
    load_tokenizer,
    load_with_padding,
    stop_ids,
)

SAMPLES = [
    "Hello world",
    "  two  spaces",
    "naïve café ☕",
    "a<|eot|>b",
    "<s>x</s>",
    "1234 5678\n\n",
    "<bos>hi<eos>",
    "",
]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture
def folder(random_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model_folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    found.update(changes)
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))


def byte_trainer(specials: list[str]) -> trainers.BpeTrainer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)


def llama3_like() -> tuple[Tokenizer, dict[str, Any]]:
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXT, byte_trainer(["<|begin|>", "<|eot|>"]))
    start = backend.token_to_id("<|begin|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", start)]
    )
    return backend, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|eot|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": True,
        "chat_template": CHAT_TEMPLATE,
    }


def qwen_like() -> tuple[Tokenizer, dict[str, Any]]:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXT, byte_trainer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    return backend, {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "errors": "replace",
        "split_special_tokens": False,
        "chat_template": [
            {"name": "default", "template": CHAT_TEMPLATE},
            {"name": "tool_use", "template": "{{ tools }}" + CHAT_TEMPLATE},
        ],
    }


def sentencepiece_like(specials: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*specials, *every_byte], show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    state = json.loads(backend.to_str())
    # Byte tokens are part of the vocabulary, not added tokens, as in converted SentencePiece models.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))


def gemma_like() -> tuple[Tokenizer, dict[str, Any]]:
    backend = sentencepiece_like(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return backend, {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "mask_token": "<mask>",
        **named,
        "chat_template": CHAT_TEMPLATE,
    }


def llama2_like() -> tuple[Tokenizer, dict[str, Any]]:
    backend = sentencepiece_like(["<unk>", "<s>", "</s>"])
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend, {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
        "chat_template": CHAT_TEMPLATE,
    }


FAMILIES: dict[str, tuple[str, Callable[[], tuple[Tokenizer, dict[str, Any]]]]] = {
    "llama-3": ("llama", llama3_like),
    "qwen": ("qwen2", qwen_like),
    "gemma": ("gemma3_text", gemma_like),
    "llama-2": ("llama", llama2_like),
}


def build(family: str, folder: Path, template_file: bool = False) -> ModelFacts:
    """A family's tokenizer files beside a random model, with facts that name the family."""
    model_type, make = FAMILIES[family]
    backend, config = make()
    if template_file:
        template = config.pop("chat_template")
        text = template if isinstance(template, str) else template[0]["template"]
        (folder / "chat_template.jinja").write_text(text)
    save_llama(folder, vocab_size=backend.get_vocab_size() + 8)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    facts = inspect_model(str(folder))
    edit(folder / "config.json", model_type=model_type)
    return facts


@pytest.mark.parametrize("template_file", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_load_as_auto_tokenizer_loads_them(family: str, template_file: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    facts = build(family, tmp_path, template_file)
    ours = load_tokenizer(facts)
    oracle = AutoTokenizer.from_pretrained(str(tmp_path))
    for text in SAMPLES:
        assert ours(text)["input_ids"] == oracle(text)["input_ids"]
        plain = ours(text, add_special_tokens=False)["input_ids"]
        assert plain == oracle(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(plain) == oracle.decode(plain)
        assert ours.decode(plain, skip_special_tokens=True) == oracle.decode(plain, skip_special_tokens=True)
    assert (ours.bos_token_id, ours.eos_token_id) == (oracle.bos_token_id, oracle.eos_token_id)
    assert ours.chat_template == oracle.chat_template
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    assert ours.apply_chat_template(messages)["input_ids"] == oracle.apply_chat_template(messages)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_tokenizers_reload_as_they_were(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    facts = build(family, tmp_path)
    ours = load_tokenizer(facts, new_tokens=("<extra>",))
    ours.save_pretrained(str(tmp_path / "saved"))
    shutil.copy(tmp_path / "config.json", tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    for text in [*SAMPLES, "a<extra>b"]:
        assert again(text)["input_ids"] == ours(text)["input_ids"]
    assert again.pad_token == ours.pad_token
    assert again.chat_template == ours.chat_template


def test_loading_imports_no_torch(random_model_folder: Path) -> None:
    code = (
        "import sys; from finetune.model_files import inspect_model;"
        "from finetune.tokenizer import load_tokenizer;"
        "load_tokenizer(inspect_model(sys.argv[1])); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(random_model_folder)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_older_files_are_converted(random_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_model_folder, tmp_path / "old"))
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(state["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in state["model"]["merges"]))
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", backend=...)
    facts = inspect_model(str(folder))
    text = "The quick brown fox"
    assert (
        load_tokenizer(facts)(text)["input_ids"]
        == load_tokenizer(inspect_model(str(random_model_folder)))(text)["input_ids"]
    )


def faults_of(action: Callable[[], Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        action()
    assert caught.value.exit_code == 2
    return [str(fault) for fault in caught.value.faults]


DAMAGE: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "missing": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", "is missing", "download"),
    "not JSON": (
        lambda f: (f / "tokenizer.json").write_text("{"),
        "tokenizer.json",
        "not valid JSON",
        "download",
    ),
    "no model": (
        lambda f: edit(f / "tokenizer.json", model=...),
        "tokenizer.json",
        "cannot be read",
        "download",
    ),
    "odd tokens": (
        lambda f: edit(f / "tokenizer.json", added_tokens=["x"]),
        "tokenizer.json",
        "cannot be read",
        "download",
    ),
    "bad settings": (
        lambda f: (f / "tokenizer_config.json").write_text("[]"),
        "tokenizer_config.json",
        "JSON object",
        "download",
    ),
    "template syntax": (
        lambda f: (f / "chat_template.jinja").write_text("a\n{% if %}"),
        "chat_template (default):2",
        "xpected",
        "model.chat_template",
    ),
    "no default template": (
        lambda f: (
            (f / "chat_template.jinja").unlink(),
            edit(f / "tokenizer_config.json", chat_template=[{"name": "a", "template": "x"}]),
        ),
        "chat_template",
        "no default one: a",
        "model.chat_template",
    ),
    "template size": (
        lambda f: (f / "chat_template.jinja").write_text("a" * (MAX_TEMPLATE + 1)),
        "chat_template (default)",
        "is larger than",
        "model.chat_template",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tokenizers_are_named_with_the_mend(name: str, folder: Path) -> None:
    damage, where, what, mend = DAMAGE[name]
    damage(folder)
    facts = inspect_model(str(folder))
    (found,) = faults_of(lambda: load_tokenizer(facts))
    place, _, rest = found.partition(": ")
    assert place.startswith(str(folder)) and place.endswith(where)
    assert what in rest and mend in rest.rpartition("; ")[2]


def test_a_vocabulary_over_the_embedding_is_refused_with_both_numbers(folder: Path) -> None:
    facts = replace(inspect_model(str(folder)), vocab_size=300)
    (found,) = faults_of(lambda: load_tokenizer(facts))
    assert "token ids up to 319, but the model's embedding has 300 rows" in found


def test_new_tokens_are_one_token_each(folder: Path) -> None:
    facts = inspect_model(str(folder))
    tokenizer = load_tokenizer(facts, new_tokens=("<call>", "<done>"))
    ids = tokenizer("x<call>y<done>", add_special_tokens=False)["input_ids"]
    assert {320, 321} <= set(ids)


def test_faulty_new_tokens_are_named_at_once(folder: Path) -> None:
    facts = inspect_model(str(folder))
    found = faults_of(lambda: load_tokenizer(facts, new_tokens=("<|pad|>", "<a>", "<a>", " ")))
    assert len(found) == 3
    assert "'<|pad|>' is in the vocabulary already" in found[0]


def test_a_given_template_replaces_the_models_own(folder: Path) -> None:
    path = folder / "mine.jinja"
    path.write_text("{% generation %}{{ messages[0]['content'] }}{% endgeneration %}")
    facts = inspect_model(str(folder))
    tokenizer = load_tokenizer(facts, chat_template=str(path))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


def test_a_missing_template_file_is_named(folder: Path) -> None:
    facts = inspect_model(str(folder))
    (found,) = faults_of(lambda: load_tokenizer(facts, chat_template=str(folder / "no.jinja")))
    assert found.startswith(f"model.chat_template {folder / 'no.jinja'}: no such file")


def test_the_models_own_padding_is_kept(folder: Path) -> None:
    facts = inspect_model(str(folder))
    _, choice = load_with_padding(facts)
    assert (choice.token, choice.id, choice.reason) == ("<|pad|>", 3, "the model's own")


@pytest.mark.parametrize("given", ["<|im_end|>", None, "<|im_start|>"])
def test_padding_is_never_a_token_with_another_use(given: str | None, folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=given)
    facts = inspect_model(str(folder))
    tokenizer, choice = load_with_padding(facts)
    assert given is None or f"the model's own, {given}, has another use" in choice.reason
    assert choice.token == tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id not in stop_ids(facts, tokenizer)


def test_without_a_reserved_token_one_is_added(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace("<|pad|>", "<|other|>").replace("<|endoftext|>", "<|x|>")
    (folder / "tokenizer.json").write_text(text)
    edit(folder / "tokenizer_config.json", pad_token=None)
    facts = inspect_model(str(folder))
    tokenizer, choice = load_with_padding(facts)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|pad|>", 320)
    assert "a row that is added" in choice.reason
    assert "a spare row" in load_with_padding(replace(facts, vocab_size=384))[1].reason


def test_end_of_text_pads_only_where_it_does_not_stop(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace("<|pad|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    edit(folder / "tokenizer_config.json", pad_token=None)
    facts = inspect_model(str(folder))
    assert load_tokenizer(facts).pad_token == "<|endoftext|>"
    edit(folder / "generation_config.json", eos_token_id=[0, 2])
    assert load_tokenizer(facts).pad_token == "<|pad|>"
    edit(folder / "tokenizer_config.json", pad_token="<|endoftext|>")
    assert load_with_padding(facts)[1].reason == "the model's own"


def test_every_stop_token_is_found_once(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[1, 2])
    facts = inspect_model(str(folder))
    assert stop_ids(facts, load_tokenizer(facts)) == (1, 2)
