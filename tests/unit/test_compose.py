"""What a configuration is composed of, in which order, and where each value came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from finetune import config as schema
from finetune.compose import (
    Composed,
    compose,
    config_from_dict,
    config_to_dict,
    identity,
    options_of,
)
from finetune.errors import UserError
from finetune.settings.catalogue import GROUPS, option_kind, typed_options
from finetune.settings.shipped import configs_folder

BASE = ("model=tiny", "data.train=my.jsonl")


def composed(*arguments: str, recipe: str | None = None) -> Composed:
    return compose([*BASE, *arguments], recipe)


def faults(*arguments: str, recipe: str | None = None) -> list[str]:
    with pytest.raises(UserError) as caught:
        composed(*arguments, recipe=recipe)
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "support" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text(
        "model: tiny\n"
        "tuning: qlora\n"
        "tuning.rank: 32\n"
        "data:\n"
        "  train: ./rows.jsonl\n"
        "training:\n"
        "  learning_rate: 1e-4\n"
        "  epochs: 2\n"
    )
    return path


def test_defaults_are_those_of_the_schema() -> None:
    config = composed().config
    expected = schema.RunConfig(
        model=schema.ModelConfig(name="tiny"),
        data=schema.DataConfig(train="my.jsonl"),
        method=option_kind("method", "sft")(),  # type: ignore[misc]
    )
    assert config == expected


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in typed_options(group)])
def test_each_option_gives_its_own_type(group: str, option: str) -> None:
    needed = ("method.teacher=tiny",) if option == "distill" else ()
    result = composed(f"{group}={option}", *needed)
    assert type(getattr(result.config, group)) is option_kind(group, option)
    assert result.choices[group] == option


@pytest.mark.parametrize("group", GROUPS)
def test_typed_options_and_files_are_the_same(group: str) -> None:
    if typed_options(group):
        assert options_of(group) == sorted(typed_options(group))


@pytest.mark.parametrize("option", options_of("model"))
def test_each_model_preset_names_a_model(option: str) -> None:
    result = compose([f"model={option}", "data.train=my.jsonl"])
    assert result.config.model.name
    assert result.sources["model.name"] == f"configs/model/{option}.yaml"


@pytest.mark.parametrize("option", options_of("data"))
def test_each_data_preset_names_rows(option: str) -> None:
    assert compose(["model=tiny", f"data={option}"]).config.data.train


@pytest.mark.parametrize(
    "path", sorted(configs_folder().glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_each_option_file_is_short_and_says_how_to_run_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 15
    command = next(line for line in lines if line.startswith("# Run")).partition(": ")[2]
    name, verb, *overrides = command.split()
    assert (name, verb) == ("finetune", "train")
    result = compose(overrides)
    assert result.choices.get(path.parent.name) == path.stem or path.stem in ("auto",)


def test_an_override_beats_the_recipe_and_the_recipe_beats_the_option_file(recipe: Path) -> None:
    result = compose(["training.epochs=5", "model.revision=abc"], str(recipe))
    assert result.config.training.epochs == 5.0
    assert result.config.tuning == schema.QloraTuning(rank=32)
    assert result.sources == {
        "model": f"recipe {recipe}",
        "tuning": f"recipe {recipe}",
        "model.name": "configs/model/tiny.yaml",
        "tuning.rank": f"recipe {recipe}",
        "data.train": f"recipe {recipe}",
        "training.learning_rate": f"recipe {recipe}",
        "training.epochs": "override",
        "model.revision": "override",
    }


def test_an_override_of_a_group_beats_the_recipe(recipe: Path) -> None:
    result = compose(["tuning=lora"], str(recipe))
    assert result.config.tuning == schema.LoraTuning(rank=32)
    assert result.sources["tuning"] == "override"


def test_a_picked_option_replaces_the_recipes_with_its_settings(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "defaults:\n  - tuning: qlora\nmodel.name: org/other\ntuning: {rank: 4, bits: 8, start: merge}\n"
    )
    assert composed("tuning=full", recipe=str(tmp_path)).config.tuning == schema.FullTuning(start="merge")
    assert composed("tuning=lora", recipe=str(tmp_path)).config.tuning == schema.LoraTuning(rank=4, start="merge")
    assert composed(recipe=str(tmp_path)).config.model.name == "tiny"  # model=tiny, not the recipe's name
    assert composed(recipe=str(tmp_path)).sources["model.name"] == "configs/model/tiny.yaml"
    assert faults("tuning=full", "tuning.rank=8", recipe=str(tmp_path)) == [
        "tuning.rank: tuning=full has no such setting; tuning=lora and tuning=qlora have it"
    ]


def test_a_recipe_in_hydras_spelling_is_the_same(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "support" / "other.yaml"
    other.write_text(
        "defaults:\n  - override /model: tiny\n  - tuning: qlora\n  - _self_\n"
        "tuning:\n  rank: 32\n"
        "data: {train: ./rows.jsonl}\n"
        "training: {learning_rate: 1.0e-4, epochs: 2}\n"
    )
    assert compose([], str(other)).config == compose([], str(recipe)).config


def test_paths_of_a_recipe_are_relative_to_it(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose([], str(recipe)).config.data.train == str(recipe.parent / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert compose([], "support").config.data.train == "support/rows.jsonl"
    assert compose(["data.train=other.jsonl"], "support").config.data.train == "other.jsonl"


def test_paths_of_the_command_line_lose_a_leading_dot() -> None:
    assert composed("data.eval=./held/out.jsonl").config.data.eval == "held/out.jsonl"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("tuning=qlora", "tuning.targets=[q_proj,v_proj]", "training.learning_rate=1e-4"),
        (
            "tuning=full",
            "launch=accelerate",
            "parallel=fsdp",
            "tracking=wandb",
            "tracking.project=null-project",
        ),
        ("method.trl.neftune_noise_alpha=5", "method.trl.lr_scheduler_kwargs={min_lr: 1e-6}"),
        (
            "data.columns.prompt=frage: 'was'",
            "data.columns.completion=007",
            "name=1e5",
            "model.revision=null",
        ),
        ("data.eval=[a(1).jsonl,ü b.jsonl]", "data.weights=[1,0.5]", "name=yes", "resume=~/x # y"),
    ],
)
def test_the_written_configuration_is_a_recipe_for_itself(arguments: tuple[str, ...], tmp_path: Path) -> None:
    first = composed(*arguments)
    (tmp_path / "config.yaml").write_text(first.yaml, encoding="utf-8")
    again = compose([], str(tmp_path / "config.yaml"))
    assert again.config == first.config
    assert again.yaml == first.yaml
    assert compose([], str(tmp_path)).config == first.config  # the run directory itself


def test_the_written_configuration_is_plain_yaml() -> None:
    plain = yaml.safe_load(composed("tuning=qlora").yaml)
    assert plain["tuning"]["bits"] == 4
    assert {"tuning": "qlora"} in plain["defaults"]


@pytest.mark.parametrize("arguments", [(), ("tuning=full", "tracking=mlflow"), ("data.train=[a.jsonl,b.jsonl]",)])
def test_a_configuration_goes_through_json_unchanged(arguments: tuple[str, ...]) -> None:
    config = compose(["model=tiny", *(arguments if "train" in str(arguments) else (*arguments, "data.train=a"))]).config
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    "value",
    [
        "x(1).jsonl",
        "a=b.jsonl",
        "~/x",
        "/d/a,b.jsonl",
        "a b.jsonl",
        "C:\\rows",
        "{a}.jsonl",
        "[x].jsonl",
        "+1.jsonl",
    ],
)
def test_paths_are_taken_as_they_are_written(value: str) -> None:
    assert compose(["model=tiny", f"data.train={value}"]).config.data.train == value


def test_a_path_may_be_a_list_of_paths() -> None:
    config = compose(["model=tiny", "data.train=[a(1).jsonl, 'b,c.jsonl',d=e.jsonl]"]).config
    assert config.data.train == ["a(1).jsonl", "b,c.jsonl", "d=e.jsonl"]


@pytest.mark.parametrize("value", ["007", "1e5", "true", "12", "0x1f"])
def test_text_is_not_read_as_a_number(value: str, tmp_path: Path) -> None:
    assert composed(f"model.revision={value}").config.model.revision == value
    (tmp_path / "recipe.yaml").write_text(f"model.revision: {value}\n")
    assert composed(recipe=str(tmp_path)).config.model.revision == value


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-04", ".0001", "'1e-4'"])
def test_a_number_is_one_however_it_is_written(text: str, tmp_path: Path) -> None:
    assert composed(f"training.learning_rate={text}").config.training.learning_rate == 1e-4
    (tmp_path / "recipe.yaml").write_text(f"training:\n  learning_rate: {text}\n")
    assert composed(recipe=str(tmp_path)).config.training.learning_rate == 1e-4


def test_open_mappings_need_no_plus() -> None:
    config = composed("data.columns.prompt=question", "method.trl.neftune_noise_alpha=5.0").config
    assert config.data.columns == {"prompt": "question"}
    assert config.method.trl == {"neftune_noise_alpha": 5.0}
    assert composed("++data.columns={prompt: question}").config.data.columns == {"prompt": "question"}


def test_lists_of_text_keep_what_hydra_cannot_read() -> None:
    assert composed("tuning.new_tokens=[<think>,</think>]").config.tuning.new_tokens == [
        "<think>",
        "</think>",
    ]


def test_a_model_needs_no_preset() -> None:
    assert compose(["model.name=org/x", "data.train=a"]).config.model.name == "org/x"


def test_faults_of_several_overrides_are_reported_together() -> None:
    found = faults("modle.name=x", "training.batch_size=0", "tuning.rank=many", "method.trl.bta=1")
    assert [fault.partition(":")[0] for fault in found] == [
        "modle.name",
        "training.batch_size",
        "tuning.rank",
        "method.trl.bta",
    ]


def test_faults_of_a_recipe_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("training:\n  epoch: 3\n  batchsize: 4\ntuning:\n  rang: 8\n")
    assert faults(recipe=str(path)) == [
        f"{path}:2 training.epoch: unknown key; did you mean training.epochs?",
        f"{path}:3 training.batchsize: unknown key; did you mean training.batch_size?",
        f"{path}:5 tuning.rang: unknown key; did you mean tuning.rank?",
    ]


def test_what_is_missing_is_said_with_an_example() -> None:
    with pytest.raises(UserError) as caught:
        compose([])
    assert [str(fault) for fault in caught.value.faults] == [
        "model.name: no model is chosen; write model=tiny, or model.name=Qwen/Qwen3-0.6B for any other",
        "data.train: no training rows are given; name a file, a folder or a hub id, such as data.train=my.jsonl",
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "training.learning_rate"),
        ("lora_r", "tuning.rank"),
        ("num_train_epochs", "training.epochs"),
        ("training.per_device_train_batch_size", "training.batch_size"),
        ("training.rank", "tuning.rank"),
        ("rank", "tuning.rank"),
        ("tunning", "tuning"),
        ("data.max_lenght", "data.max_length"),
    ],
)
def test_a_wrong_key_suggests_the_right_one(key: str, meant: str) -> None:
    assert faults(f"{key}=8") == [f"{key}: unknown key; did you mean {meant}?"]


def test_a_key_of_another_option_names_the_options_that_have_it() -> None:
    assert faults("tuning=full", "tuning.rank=8") == [
        "tuning.rank: tuning=full has no such setting; tuning=lora and tuning=qlora have it"
    ]
    assert faults("tuning.bits=4") == ["tuning.bits: tuning=lora has no such setting; tuning=qlora has it"]


def test_a_hub_id_or_a_file_in_place_of_an_option_is_understood() -> None:
    with pytest.raises(UserError, match=r"write model\.name=Qwen/Qwen3-8B$"):
        compose(["model=Qwen/Qwen3-8B", "data.train=a"])
    with pytest.raises(UserError, match=r"write data\.train=my\.jsonl$"):
        compose(["model=tiny", "data=my.jsonl"])


def test_only_settings_can_be_allowed_to_change() -> None:
    allowed = "allow_change=[training.learning_rate,data,method.trl.torch_compile]"
    assert len(composed(allowed).config.allow_change) == 3
    assert faults("allow_change=[training.learning_rat]") == [
        "allow_change: 'training.learning_rat' is not a setting; did you mean training.learning_rate?"
    ]


def test_no_message_speaks_of_hydra_or_omegaconf() -> None:
    wrong = ("abc", "{", "[1", "{a: 1}", "null", "'", "a=b", "1,2", "???", "${x}", "(1)", "-", "[[]]")
    for key in (
        "training.learning_rate",
        "training.batch_size",
        "data.weights",
        "seed",
        "model.trust_remote_code",
    ):
        for value in wrong:
            try:
                composed(f"{key}={value}")
            except UserError as error:
                said = str(error).lower()
                assert not any(word in said for word in ("omegaconf", "hydra", "reference_type", "antlr"))
                assert key in str(error)
            else:
                assert (key, value) in [("training.learning_rate", "null")]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as a wheel lays it out: configurations and recipes inside it."""
    package = tmp_path / "site-packages" / "finetune"
    shutil.copytree(configs_folder(), package / "configs")
    (package / "recipes" / "support").mkdir(parents=True)
    (package / "recipes" / "support" / "recipe.yaml").write_text("model: tiny\ndata.train: ./rows.jsonl\n")
    monkeypatch.setattr("finetune.settings.shipped.PACKAGE", package)
    return package


def test_an_installed_package_brings_its_configurations_and_recipes(installed: Path) -> None:
    config = compose(["tuning=qlora"], "support").config
    assert config.data.train == str(installed / "recipes" / "support" / "rows.jsonl")
    with pytest.raises(UserError, match=r"--recipe suport: no such recipe; did you mean support\?"):
        compose([], "suport")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nam: x\n", "configs/model/mine.yaml:1 nam: unknown key; did you mean model.name?"),
        ("name: x\nrevision: [1]\n", "configs/model/mine.yaml:2 revision: [1] is not text"),
        ("_target_: os.system\n", "configs/model/mine.yaml:1 _target_: _target_ is not supported"),
        (
            "name: ${oc.env:X}\n",
            "configs/model/mine.yaml:1 name: the environment variable X is not read here",
        ),
        ("name: !x 1\n", "configs/model/mine.yaml:1: unsafe YAML tag !x"),
    ],
)
def test_faults_of_an_option_file_name_its_line(installed: Path, text: str, said: str) -> None:
    (installed / "configs" / "model" / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        compose(["model=mine", "data.train=a"])
    assert str(caught.value.faults[0]).startswith(said)


def test_a_new_model_is_one_file(installed: Path) -> None:
    (installed / "configs" / "model" / "mine.yaml").write_text("name: org/mine\nrevision: v1\n")
    config = compose(["model=mine", "data.train=a"]).config
    assert (config.model.name, config.model.revision) == ("org/mine", "v1")


def test_the_identity_is_of_what_is_learned() -> None:
    same = identity(composed().config)
    assert len(same) == 8 and int(same, 16) >= 0
    for free in (
        "name=other",
        "output_dir=elsewhere",
        "training.epochs=9",
        "tracking=wandb",
        "launch=inline",
    ):
        assert identity(composed(free).config) == same
    others = ("seed=1", "tuning=full", "tuning.rank=8", "training.learning_rate=1e-5", "data.eval=b.jsonl")
    assert len({same, *(identity(composed(other).config) for other in others)}) == len(others) + 1


def test_nothing_of_the_environment_or_clock_is_in_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    before = composed("data.eval=~/x").yaml
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("USER", "other")
    assert composed("data.eval=~/x").yaml == before


def test_composing_twice_gives_the_same(recipe: Path) -> None:
    assert compose(["training.epochs=4"], str(recipe)) == compose(["training.epochs=4"], str(recipe))
