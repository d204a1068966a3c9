"""The fault table, rows 22, 25, 61–74 and 86: models that cannot be trained, and what the user sees."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import save_tokenizer
from refusals import GOOD, Refused, Run, lines, refuse, write_files

GIVEN = ("data.train=t.jsonl", "training.batch_size=2")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
FAMILIES = "use a decoder-only language model: Llama, Qwen, "
Damage = Callable[[Path], object]


def edit(name: str, **changes: Any) -> Damage:
    """A change of a JSON file; `...` takes a key out."""

    def change(folder: Path) -> None:
        value = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))

    return change


def content(name: str, make: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(make((folder / name).read_bytes()))


def lost_shard(folder: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (folder / WEIGHTS).rename(folder / first)
    index = json.dumps({"weight_map": {"a": first, "b": second}})
    (folder / "model.safetensors.index.json").write_text(index)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def other_architecture(kind: str, name: str, **more: Any) -> Damage:
    return edit(CONFIG, model_type=kind, architectures=[name], **more)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
HUGE = struct.pack("<Q", 10**12) + b"{}" * 100

DAMAGED: list[tuple[int, str, Damage, str]] = [
    (62, "no configuration", lambda folder: (folder / CONFIG).unlink(), f"/{CONFIG}: is missing (it has "),
    (62, "bad JSON", content(CONFIG, lambda raw: b"{"), f"/{CONFIG}: is not valid JSON ("),
    (62, "unknown type", edit(CONFIG, model_type="llamma"), f"/{CONFIG} model_type: 'llamma' is unknown to the installed transformers; did you mean llama?"),
    (62, "no type", edit(CONFIG, model_type=...), f"/{CONFIG} model_type: is missing; download the model again, or name another folder"),
    (62, "no sizes", edit(CONFIG, hidden_size=...), f"/{CONFIG} hidden_size: is missing or not a positive whole number; download the model again"),
    (63, "own code", edit(CONFIG, model_type="mine", auto_map={"AutoConfig": "x.Y"}), f"/{CONFIG} auto_map: this model needs Python code from its own repository; if you trust it, set model.trust_remote_code=true and model.revision to a full commit"),
    (64, "lost shard", lost_shard, "/model-00002-of-00002.safetensors: is missing, but model.safetensors.index.json lists it; download the missing file"),
    (65, "cut", content(WEIGHTS, lambda raw: raw[:100_000]), f"/{WEIGHTS}: is cut short: 100000 of "),
    (65, "cut in the header", content(WEIGHTS, lambda raw: raw[:1000]), f"/{WEIGHTS}: names a header of "),
    (65, "empty", content(WEIGHTS, lambda raw: b""), f"/{WEIGHTS}: is empty; download the file again"),
    (65, "zeros", content(WEIGHTS, lambda raw: b"\0" * 4000), f"/{WEIGHTS}: is not a safetensors file (4000 bytes); download the file again"),
    (65, "header beyond the file", content(WEIGHTS, lambda raw: HUGE), f"/{WEIGHTS}: names a header of 1000000000000 bytes, but the file has 208; download the file again"),
    (66, "pickled", pickled, ": has only pickled weights (pytorch_model.bin), which can run code when loaded; convert them to safetensors"),
    (67, "pointer", content(WEIGHTS, lambda raw: LFS), f"/{WEIGHTS}: is a git-lfs pointer (130 bytes) instead of weights; run git lfs pull"),
    (68, "no tokenizer", lambda folder: (folder / "tokenizer.json").unlink(), "/tokenizer.json: is missing, and so are vocab.json, tokenizer.model; download the model's tokenizer files too"),
    (68, "cut tokenizer", content("tokenizer.json", lambda raw: raw[:500]), "/tokenizer.json: is not valid JSON (Unterminated string"),
    (68, "tokenizer of another model", lambda folder: save_tokenizer(folder, 600), "/tokenizer.json: has token ids up to 321, but the model's embedding has 320 rows; use the tokenizer that belongs to these weights"),
    (68, "vocabulary of another model", edit(CONFIG, vocab_size=1000), f"/{CONFIG} vocab_size: is 1000, but the embedding has 320 rows; use the configuration that belongs to these weights"),
    (74, "encoder-decoder", other_architecture("t5", "T5ForConditionalGeneration", is_encoder_decoder=True), f"/{CONFIG} architectures: T5ForConditionalGeneration is an encoder-decoder model; {FAMILIES}"),
    (74, "vision", other_architecture("llava", "LlavaForConditionalGeneration", vision_config={}), f"/{CONFIG} architectures: LlavaForConditionalGeneration takes images or sound, which is not supported; {FAMILIES}"),
    (74, "encoder", other_architecture("bert", "BertForMaskedLM"), f"/{CONFIG} architectures: BertForMaskedLM is not a decoder-only language model; {FAMILIES}"),
]  # fmt: skip


def refused_model(row: int, said: str, llama: Path, damage: Damage, *more: str, keeps: bool = False) -> Refused:
    def build(folder: Path) -> None:
        damage(Path(shutil.copytree(llama, folder / "m")))

    return Refused(row, "", said, ("model.name=m", *GIVEN, *more), {"t.jsonl": lines(GOOD)}, build, keeps)


@pytest.mark.parametrize(
    ("row", "name", "damage", "said"), DAMAGED, ids=[f"{row}-{name}" for row, name, _, _ in DAMAGED]
)
def test_a_damaged_model_is_refused(
    row: int, name: str, damage: Damage, said: str, finetune: Run, tmp_path: Path, llama: Path
) -> None:
    refuse(refused_model(row, f"FOLDER/m{said}", llama, damage), finetune, tmp_path)


def whole(folder: Path) -> None:
    pass


SETTINGS: list[tuple[int, Damage, tuple[str, ...], str]] = [
    (22, whole, ("tuning.targets=[q_prj]",), "tuning.targets: no layer matches 'q_prj'; the model has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; did you mean q_proj?"),
    (22, whole, ("tuning.targets=[q_proj,nope]",), "tuning.targets: no layer matches 'nope'; the model has down_proj, "),
    (22, whole, ("tuning.modules_to_save=[nope]",), "tuning.modules_to_save: no module matches 'nope'; the model has "),
    (6, whole, ("tuning.rank=65",), "tuning.rank: must be 1..64 (the width of the model), got 65; lower it"),
    (63, whole, ("model.trust_remote_code=true",), "model.trust_remote_code: has no effect: this model needs no code of its own; leave it out"),
    (73, edit(CONFIG, quantization_config={"quant_method": "awq", "bits": 4}), ("tuning=qlora",), "m: the weights are stored quantized (awq 4 bits), which tuning=qlora cannot start from; name the unquantized model; tuning=qlora quantizes it while loading"),
    (73, edit(CONFIG, quantization_config={"quant_method": "gptq", "bits": 8}), ("tuning=lora",), "m: the weights are stored quantized (gptq 8 bits), which tuning=lora cannot start from; name the unquantized model"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "damage", "more", "said"), SETTINGS, ids=[f"{row}-{more[0]}" for row, _, more, _ in SETTINGS]
)
def test_settings_that_the_model_does_not_bear_are_refused(
    row: int, damage: Damage, more: tuple[str, ...], said: str, finetune: Run, tmp_path: Path, llama: Path
) -> None:
    keeps = "trust_remote_code" not in more[0]
    refuse(refused_model(row, said, llama, damage, *more, keeps=keeps), finetune, tmp_path)


def test_row_25_more_tokens_than_the_model_takes(finetune: Run, tmp_path: Path, llama: Path) -> None:
    said = "data.max_length: 257 is more than the model's context of 256 tokens; use at most 256"
    refuse(refused_model(25, said, llama, whole, "data.max_length=257"), finetune, tmp_path)


def test_row_69_conversations_need_a_chat_template(finetune: Run, tmp_path: Path, llama: Path) -> None:
    said = "model.chat_template: the tokenizer has none, and the rows are conversations; set model.chat_template=FILE"
    refuse(refused_model(69, said, llama, lambda folder: (folder / "chat_template.jinja").unlink()), finetune, tmp_path)


def test_row_70_a_padding_token_is_chosen_and_said(finetune: Run, tmp_path: Path, llama: Path) -> None:
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    edit("tokenizer_config.json", pad_token=...)(Path(shutil.copytree(llama, tmp_path / "m")))
    code, out, err = finetune("plan", "model.name=m", *GIVEN)
    assert code == 0, err
    assert "<|pad|> (the model has none; the vocabulary keeps this one for such uses)" in out


NAMES: list[tuple[int, str, str]] = [
    (61, "nope/", "nope/: no such folder; give a folder with config.json, or a hub id such as Qwen/Qwen3-0.6B"),
    (61, "./mm", "./mm: no such folder; did you mean the folder m?"),
    (61, "t.jsonl", "t.jsonl: is a file, not a model's folder; name the folder: ."),
    (61, ".", "FOLDER/config.json: is missing (it has m, t.jsonl); name the folder of a model or of an adapter"),
    (61, "/etc/passwd", "/etc/passwd: is a file, not a model's folder; name the folder: /etc"),
    (61, "https://huggingface.co/org/name", "https://huggingface.co/org/name: no such folder; for a model of the hub write model.name=org/name"),
    (61, "org/name@main", "org/name@main: no such folder; write model.name=org/name model.revision=main"),
    (61, "x" * 3000, "model.name: 'xxxxx"),
    (61, "a\0b", "model.name: 'a\\x00b' holds a NUL character, which no path does; remove it"),
    (61, "--help", "--help: no such folder; give a folder with config.json, or a hub id"),
    (86, "org/name", "org/name: config.json is not in the local cache, and the hub cannot be reached; download it where there is a network, or give a local folder"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "name", "said"), NAMES, ids=[f"{row}-{name[:20]!a}" for row, name, _ in NAMES])
def test_a_name_that_leads_to_no_model_is_refused(
    row: int, name: str, said: str, finetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    case = Refused(row, "", said, (f"model.name={name}", *GIVEN), {"t.jsonl": lines(GOOD), "m/notes.txt": ""})
    refuse(case, finetune, tmp_path)


def test_rows_71_and_72_an_adapter_that_does_not_fit_is_refused(finetune: Run, tmp_path: Path, llama: Path) -> None:
    from models import save_random_adapter

    save_random_adapter(llama, tmp_path / "a")
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    sound = (tmp_path / "a" / "adapter_config.json").read_text()
    start = ("model.name=a", "tuning.start=continue", *GIVEN)
    where = "FOLDER/a/adapter_config.json"
    for row, changes, said in (
        (71, {"r": 8}, "FOLDER/a/adapter_model.safetensors: has matrices of rank 4, but adapter_config.json says 8; use the"),
        (71, {"base_model_name_or_path": "/gone/base"}, f"{where} base_model_name_or_path: /gone/base is missing; put the base model there"),
        (72, {"peft_type": ...}, f"{where} peft_type: is missing; save the adapter again"),
        (72, {"peft_type": "IA3"}, f"{where} peft_type: 'IA3' is not supported; use an adapter of type LORA"),
        (72, {"auto_mapping": {"parent_library": "evil"}}, f"{where} auto_mapping.parent_library: names the foreign module 'evil'"),
    ):  # fmt: skip
        edit("adapter_config.json", **changes)(tmp_path / "a")
        refuse(Refused(row, "", said, start), finetune, tmp_path)
        (tmp_path / "a" / "adapter_config.json").write_text(sound)


def test_what_becomes_of_an_adapter_must_be_said(finetune: Run, tmp_path: Path, llama: Path) -> None:
    from models import save_random_adapter

    save_random_adapter(llama, tmp_path / "a")
    write_files(tmp_path, {"t.jsonl": lines(GOOD)})
    for more, said in (
        (("tuning=lora",), "tuning.start: must say what becomes of the adapter that a holds; set tuning.start=continue"),
        (("tuning=full",), "tuning.start: must say what becomes of the adapter that a holds; set tuning.start=merge"),
        (("tuning.start=continue", "tuning.rank=32"), "tuning.rank: has no effect with tuning.start=continue: the adapter keeps its own; leave it out"),
        (("tuning.start=continue", "tuning=full"), "tuning.start: 'continue' trains the adapter, not every weight; use tuning.start=merge"),
    ):  # fmt: skip
        refuse(Refused(0, "", said, ("model.name=a", *GIVEN, *more), keeps=True), finetune, tmp_path)
