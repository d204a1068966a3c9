"""Facts of a model from its files alone, and every fault that those files can have."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import save_random_adapter

from finetune.adapter import add_adapter
from finetune.config import LoraTuning
from finetune.errors import UserError
from finetune.model_files import check_quantization, inspect_model


@pytest.fixture
def folder(random_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random model, to be damaged."""
    return Path(shutil.copytree(random_model_folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; a key set to `...` is removed."""
    found = json.loads(path.read_text())
    found.update(changes)
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))


def shard(folder: Path) -> None:
    """Rewrite a model's weights as two files with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def faults_of(name: str | Path, **arguments: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        inspect_model(str(name), **arguments)
    assert caught.value.exit_code == 2
    return [str(fault) for fault in caught.value.faults]


def test_facts_match_the_loaded_model(random_model_folder: Path) -> None:
    from torch import nn
    from transformers import AutoModelForCausalLM

    facts = inspect_model(str(random_model_folder))
    model = AutoModelForCausalLM.from_pretrained(str(random_model_folder))
    linear = {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }
    assert facts.linear_shapes == linear
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (facts.model_type, facts.architecture) == ("llama", "LlamaForCausalLM")
    assert (facts.hidden_size, facts.layers, facts.vocab_size, facts.context) == (64, 2, 320, 256)
    assert (facts.heads, facts.dtype, facts.tied_embeddings) == (4, "fp32", False)
    assert facts.other_sizes["lm_head"] == 320 * 64


def test_shared_embeddings_are_seen_and_counted_once(tied_model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    facts = inspect_model(str(tied_model_folder))
    model = AutoModelForCausalLM.from_pretrained(str(tied_model_folder))
    assert facts.tied_embeddings
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma3_text", "phi3", "mixtral", "qwen3_moe", "gpt_neox"])
def test_linear_layers_of_families_are_those_that_peft_adapts(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small: dict[str, Any] = {
        "vocab_size": 96,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": 1,
    }
    small["eos_token_id"] = 2
    if family == "gpt2":
        small |= {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    else:
        small |= {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        small |= {"max_position_embeddings": 64}
    if family not in ("gpt2", "gpt_neox"):
        small |= {"num_key_value_heads": 1, "head_dim": 16}
    if family == "qwen3_moe":
        small |= {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
    if family == "mixtral":
        small |= {"num_local_experts": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **small))
    model.save_pretrained(str(tmp_path))
    facts = inspect_model(str(tmp_path))
    tuned = add_adapter(model, LoraTuning(rank=2), facts, seed=0)
    adapted = {
        name.removeprefix("base_model.model."): (
            tensor.shape[0],
            dict(tuned.named_parameters())[pair].shape[1],
        )
        for name, tensor, pair in (
            (name.split(".lora_B")[0], tensor, name.replace("lora_B", "lora_A"))
            for name, tensor in tuned.named_parameters()
            if "lora_B" in name
        )
    }
    assert {name.removeprefix("transformer."): shape for name, shape in adapted.items()} == {
        name.removeprefix("transformer."): shape for name, shape in facts.linear_shapes.items()
    }
    total = sum(parameter.numel() for name, parameter in tuned.named_parameters() if "lora_" not in name)
    assert facts.parameters == total


def test_shards_are_read_like_one_file(folder: Path, random_model_folder: Path) -> None:
    shard(folder)
    sharded, single = inspect_model(str(folder)), inspect_model(str(random_model_folder))
    assert sharded.linear_shapes == single.linear_shapes
    assert sharded.parameters == single.parameters


def test_the_fingerprint_follows_the_files(folder: Path, random_model_folder: Path) -> None:
    before = inspect_model(str(folder)).fingerprint
    assert before == inspect_model(str(random_model_folder)).fingerprint
    edit(folder / "config.json", rms_norm_eps=1e-5)
    changed = inspect_model(str(folder)).fingerprint
    shard(folder)
    assert len({before, changed, inspect_model(str(folder)).fingerprint}) == 3


def test_a_run_directory_stands_for_what_it_made(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_random_adapter(folder, run / "adapter")
    assert "no config.json" in faults_of(run)[0] or "config.json: is missing" in faults_of(run)[0]
    (run / "lineage.json").write_text("{}")
    facts = inspect_model(str(run))
    assert facts.adapter is not None
    assert facts.adapter.path == str(run / "adapter")
    assert (facts.adapter.rank, facts.adapter.targets) == (4, ("q_proj",))
    assert facts.path == str(folder)


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text("{}")
    assert "no adapter/ or model/ yet" in faults_of(tmp_path)[0]


def test_gpt2_adapters_fit_their_base(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(str(tmp_path / "base"))
    save_random_adapter(tmp_path / "base", tmp_path / "adapter", targets=("c_attn", "c_proj"))
    facts = inspect_model(str(tmp_path / "adapter"))
    assert facts.adapter is not None and facts.adapter.rank == 4


def test_looking_at_a_model_imports_nothing_heavy(random_model_folder: Path) -> None:
    code = (
        "import sys; from finetune.model_files import inspect_model; inspect_model(sys.argv[1]);"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(random_model_folder)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456789\n")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def overlong_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 10**9) + path.read_bytes()[8:])


def wrong_shape(path: Path) -> None:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    path.write_bytes(raw[:8] + raw[8 : 8 + length].replace(b"[64,64]", b"[64,63]", 1) + raw[8 + length :])


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def t5(folder: Path) -> None:
    edit(
        folder / "config.json",
        model_type="t5",
        architectures=["T5ForConditionalGeneration"],
        is_encoder_decoder=True,
    )


def vision(folder: Path) -> None:
    edit(
        folder / "config.json",
        model_type="gemma3",
        architectures=["Gemma3ForConditionalGeneration"],
        vision_config={},
    )


def bert(folder: Path) -> None:
    edit(folder / "config.json", model_type="bert", architectures=["BertForMaskedLM"])


WEIGHTS = "model.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "is missing", "name the folder"),
    "config not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json",
        "not valid JSON",
        "download",
    ),
    "config a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json",
        "JSON object",
        "download",
    ),
    "no model type": (
        lambda f: edit(f / "config.json", model_type=...),
        "config.json model_type",
        "is missing",
        "download",
    ),
    "unknown model type": (
        lambda f: edit(f / "config.json", model_type="lama"),
        "config.json model_type",
        "'lama' is unknown",
        "did you mean llama?",
    ),
    "own code": (
        lambda f: edit(f / "config.json", model_type="mine", auto_map={"AutoModel": "m.M"}),
        "config.json auto_map",
        "needs Python code",
        "model.trust_remote_code=true",
    ),
    "code of others": (
        lambda f: edit(f / "config.json", model_type="mine", auto_map={"AutoModel": "org/x--m.M"}),
        "config.json auto_map",
        "needs Python code",
        "model.trust_remote_code=true",
    ),
    "nested too deep": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "config.json",
        "not valid JSON",
        "download",
    ),
    "no hidden size": (
        lambda f: edit(f / "config.json", hidden_size="64"),
        "config.json hidden_size",
        "not a positive whole number",
        "download",
    ),
    "weights empty": (lambda f: cut(f / WEIGHTS, 0), WEIGHTS, "is empty", "download the file again"),
    "weights zeroed": (
        lambda f: (f / WEIGHTS).write_bytes(bytes(500)),
        WEIGHTS,
        "not a safetensors file (500 bytes)",
        "download the file again",
    ),
    "weights cut": (lambda f: cut(f / WEIGHTS, 200_000), WEIGHTS, "is cut short: 200000 of 462", "download"),
    "header cut": (lambda f: cut(f / WEIGHTS, 500), WEIGHTS, "header of", "download the file again"),
    "header over file": (lambda f: overlong_header(f / WEIGHTS), WEIGHTS, "1000000000 bytes", "download"),
    "shape and size differ": (lambda f: wrong_shape(f / WEIGHTS), WEIGHTS, "damaged header", "download"),
    "git-lfs pointer": (lambda f: lfs_pointer(f / WEIGHTS), WEIGHTS, "git-lfs pointer (1", "git lfs pull"),
    "only pickles": (
        only_pickle,
        "model",
        "only pickled weights (pytorch_model.bin)",
        "convert them to safetensors",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model", "has no weights", "download"),
    "encoder-decoder": (t5, "config.json architectures", "is an encoder-decoder model", "Llama, Qwen"),
    "vision": (vision, "config.json architectures", "takes images or sound", "decoder-only"),
    "masked": (bert, "config.json architectures", "BertForMaskedLM is not a decoder-only", "Llama, Qwen"),
    "vocabulary": (
        lambda f: edit(f / "config.json", vocab_size=400),
        "config.json vocab_size",
        "is 400, but the embedding has 320 rows",
        "belongs to these weights",
    ),
    "layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=3),
        "config.json",
        "names 3 layers, but the weights hold 2",
        "belongs to these weights",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_named_with_the_mend(name: str, folder: Path) -> None:
    damage, where, what, mend = DAMAGE[name]
    damage(folder)
    found = faults_of(folder)
    assert len(found) == 1
    place, _, rest = found[0].partition(": ")
    assert place.startswith(str(folder)) and place.endswith(where)
    assert what in rest and mend in rest.partition("; ")[2]


def test_every_missing_shard_is_named_at_once(folder: Path) -> None:
    shard(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    cut(folder / "model-00002-of-00002.safetensors", 1000)
    found = faults_of(folder)
    assert len(found) == 2
    assert "model-00001-of-00002.safetensors: is missing" in found[0] and "index.json lists it" in found[0]
    assert "model-00002-of-00002.safetensors" in found[1]


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": ["x"]}'])
def test_a_damaged_index_is_named(text: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    assert "index.json: is not a valid index" in faults_of(folder)[0]


def test_an_index_of_other_shards_is_named(folder: Path) -> None:
    shard(folder)
    index = folder / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(found))
    assert "lists 1 tensors that no shard holds (model.extra.weight)" in faults_of(folder)[0]


def test_trusted_code_is_pinned_and_in_place(folder: Path) -> None:
    edit(folder / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "code.Mine"})
    assert inspect_model(str(folder), trust_remote_code=True).trust_remote_code
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "org/other--code.Mine"})
    assert "code of another repository" in faults_of(folder, trust_remote_code=True)[0]


def test_trust_without_code_is_said_to_have_no_effect(folder: Path) -> None:
    assert faults_of(folder, trust_remote_code=True)[0].startswith("model.trust_remote_code: has no effect")


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_escapes_as_a_bug(seed: int, folder: Path) -> None:
    source = random.Random(seed)
    path = folder / source.choice(["model.safetensors", "config.json"])
    raw = bytearray(path.read_bytes())
    # Most of the file is numbers that no check reads, so the damage goes where meaning is.
    end = min(len(raw), 3000)
    for _ in range(source.randint(1, 6)):
        raw[source.randrange(end)] = source.randrange(256)
    path.write_bytes(bytes(raw))
    with contextlib.suppress(UserError):
        inspect_model(str(folder))


def test_an_index_cannot_name_files_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    assert "outside the model's folder" in faults_of(folder)[0]


def test_a_missing_folder_suggests_the_one_beside_it(folder: Path) -> None:
    found = faults_of(folder.parent / "modle")
    assert found == [f"{folder.parent / 'modle'}: no such folder; did you mean the folder {folder}?"]


def test_a_file_is_not_a_model(folder: Path) -> None:
    assert "is a file, not a model's folder" in faults_of(folder / "config.json")[0]


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    assert faults_of(folder, revision="main")[0].startswith("model.revision: 'main' has no effect")


@pytest.mark.parametrize("method, bits", [("awq", 4), ("gptq", 8)])
def test_quantized_weights_are_named_and_refused(method: str, bits: int, folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": method, "bits": bits})
    facts = inspect_model(str(folder))
    assert facts.quantization == f"{method} {bits} bits"
    (fault,) = check_quantization(facts, "qlora")
    assert f"{method} {bits} bits" in str(fault) and "tuning=qlora" in str(fault) and "unquantized" in fault.mend


def test_full_weights_have_no_quantization_fault(random_model_folder: Path) -> None:
    assert check_quantization(inspect_model(str(random_model_folder)), "qlora") == []


ADAPTER_DAMAGE: dict[str, tuple[dict[str, Any], str, str]] = {
    "no type": ({"peft_type": ...}, "adapter_config.json peft_type", "is missing"),
    "bad type": ({"peft_type": "IA3"}, "adapter_config.json peft_type", "'IA3' is not supported"),
    "no base": (
        {"base_model_name_or_path": None},
        "adapter_config.json base_model_name_or_path",
        "is missing",
    ),
    "rank as text": ({"r": "4"}, "adapter_config.json r", "must be a whole number"),
    "targets of numbers": (
        {"target_modules": [1]},
        "adapter_config.json target_modules",
        "must be a list of names",
    ),
    "rank zero": ({"r": 0}, "adapter_config.json r", "must be 1..4096, got 0"),
    "other task": ({"task_type": "SEQ_CLS"}, "adapter_config.json task_type", "'SEQ_CLS'"),
    "foreign code": (
        {"auto_mapping": {"parent_library": "evil.code", "base_model_class": "X"}},
        "adapter_config.json auto_mapping.parent_library",
        "foreign module 'evil.code'",
    ),
    "megatron": ({"megatron_config": {"a": 1}}, "adapter_config.json megatron_config", "is not supported"),
    "unknown setting": (
        {"use_dorra": True},
        "adapter_config.json use_dorra",
        "does not know; did you mean use_dora?",
    ),
}


@pytest.fixture(scope="module")
def adapter_source(random_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    save_random_adapter(random_model_folder, folder)
    return folder


@pytest.fixture
def adapter(adapter_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter_source, tmp_path / "adapter"))


@pytest.mark.parametrize("name", ADAPTER_DAMAGE)
def test_damaged_adapters_are_named_by_field(name: str, adapter: Path) -> None:
    changes, where, what = ADAPTER_DAMAGE[name]
    edit(adapter / "adapter_config.json", **changes)
    found = faults_of(adapter)
    assert len(found) == 1
    assert found[0].startswith(f"{adapter}/{where}: ") and what in found[0]


def test_all_faults_of_an_adapter_are_collected(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", r=0, peft_type="IA3", lora_alpha=...)
    (adapter / "adapter_model.safetensors").unlink()
    assert len(faults_of(adapter)) == 4


def test_weights_of_another_rank_are_refused(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", r=8)
    assert "has matrices of rank 4, but adapter_config.json says 8" in faults_of(adapter)[0]


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    from models import save_llama

    other = tmp_path / "other"
    save_llama(other, hidden=32)
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(other))
    found = faults_of(adapter)
    assert any("64 inputs, but it has 32" in fault and str(other) in fault for fault in found)


def test_a_missing_base_is_named(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", base_model_name_or_path="/nowhere/base")
    found = faults_of(adapter)
    assert "base_model_name_or_path: /nowhere/base is missing" in found[0]


def test_adapters_that_name_each_other_are_refused(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(adapter))
    assert "name each other" in faults_of(adapter)[0]
