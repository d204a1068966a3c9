"""The fault table, rows 1–26, 93 and 94: bad configurations, and what the user sees.

Each case is the row's number, what is typed or stands in the recipe's file, and the line that must appear:
where, what and mend. `RECIPE` stands for the recipe's path.

Rows that are decided from facts of the model, the data or the device (10, 11, 12, 22, 23 and the context of
25) are tested with the plan. Row 24 is about groups of generations, which no method has yet.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.cli import main

NUMBER = "training.learning_rate"
START = ("model=tiny", "data.train=rows.jsonl")

OVERRIDES: list[tuple[int, str, str]] = [
    (1, "modle.name=x", "modle.name: unknown key; did you mean model.name?"),
    (1, "training.rank=8", "training.rank: unknown key; did you mean tuning.rank?"),
    (1, "tunning=qlora", "tunning: unknown key; did you mean tuning?"),
    (1, "tuning=qlra", "tuning: no option 'qlra'; known are full, lora, qlora; did you mean"),
    (3, f"{NUMBER}=abc", f"{NUMBER}: 'abc' is not a number"),
    (3, f"{NUMBER}=[1]", f"{NUMBER}: [1] is not a number"),
    (3, "training.batch_size=1.5", "training.batch_size: '1.5' is not a whole number"),
    (3, "training.batch_size=true", "training.batch_size: 'true' is not a whole number"),
    (3, "training.gradient_checkpointing=2", "training.gradient_checkpointing: '2' is not true or false"),
    (3, "training.batch_size=null", "training.batch_size: may not be null"),
    (3, "tuning.targets=q_proj", "tuning.targets: 'q_proj' is not a list; write tuning.targets=[q_proj]"),
    (3, "training=3", "training: 3 is not a mapping; set one of its keys: training.<key>"),
    (3, "method.trl.adam_beta1=x", "method.trl.adam_beta1: 'x' is not a number; TRL's SFTConfig takes float"),
    (5, f"{NUMBER}=-0.1", f"{NUMBER}: must be > 0, got -0.1"),
    (5, f"{NUMBER}=0", f"{NUMBER}: must be > 0, got 0"),
    (5, f"{NUMBER}=nan", f"{NUMBER}: must be a finite number, got nan"),
    (5, f"{NUMBER}=inf", f"{NUMBER}: must be a finite number, got inf"),
    (6, "tuning.rank=0", "tuning.rank: must be 1..4096, got 0"),
    (6, "tuning.rank=5000", "tuning.rank: must be 1..4096, got 5000"),
    (7, "tuning.dropout=1.0", "tuning.dropout: must be in [0, 1), got 1"),
    (8, "training.batch_size=0", "training.batch_size: must be >= 1, got 0"),
    (8, "training.accumulation=0", "training.accumulation: must be >= 1, got 0"),
    (
        9,
        "training.epochs=null",
        "training.epochs: neither training.epochs nor training.max_steps is set; set one of them",
    ),
    (9, "training.epochs=0", "training.epochs: must be > 0, got 0"),
    (9, "training.max_steps=0", "training.max_steps: must be >= 1, got 0"),
    (
        16,
        "model._target_=os.system",
        "model._target_: _target_ is not supported; a configuration names options",
    ),
    (16, "method={_target_: os.system}", "method: _target_ is not supported; a configuration names options"),
    (
        17,
        "data.train=???",
        "data.train: no training rows are given; name a file, a folder or a hub id",
    ),
    (
        18,
        "model.name=${oc.env:MODEL}",
        "model.name: the environment variable MODEL is not read here; write the value, or let the "
        'shell put it in: model.name="$MODEL"',
    ),
    (18, "seed=${seed}", "seed: the reference ${seed} is not supported; write the value"),
    (18, "seed=${now:%s}", "seed: ${now:%s} is not supported; write the value"),
    (
        20,
        "hydra.job_logging=x",
        "hydra.job_logging: Hydra's own settings are not used here; remove it",
    ),
    (20, "hydra/job_logging=x", "hydra/job_logging: Hydra's own settings are not used here; remove it"),
    (
        20,
        "hydra.run.dir=/x",
        "hydra.run.dir: Hydra's own settings are not used here; remove it",
    ),
    (21, "+x={", """x={: '{' cannot be read as a value; quote it twice: 'x="{"'"""),
    (21, f"{NUMBER}=(1", f"""{NUMBER}=(1: '(1' cannot be read as a value; quote it twice: '{NUMBER}="(1"'"""),
    (21, f"{NUMBER}=", f"{NUMBER}: nothing stands after `=`; for no value write {NUMBER}=null"),
    (21, "rows.jsonl", "rows.jsonl: is not a setting; for training rows write data.train=rows.jsonl"),
    (
        21,
        f"{NUMBER}=1e-4,2e-4",
        f"{NUMBER}: '1e-4,2e-4' is a sweep over several values, which is not supported; run",
    ),
    (
        21,
        "training.scheduler=cosine,linear",
        "training.scheduler: 'cosine,linear' is a sweep over several values",
    ),
    (
        21,
        "tuning=lora,full",
        "tuning: tuning=lora,full is a sweep over several values, which is not supported; run",
    ),
    (25, "data.max_length=1", "data.max_length: must be >= 2, got 1"),
    (
        26,
        "training.scheduler=cosin",
        "training.scheduler: 'cosin' is not one of cosine, linear, constant, constant_with_warmup, "
        "inverse_sqrt, cosine_with_min_lr; did you mean cosine?",
    ),
    (26, "training.optimizer=adamm", "training.optimizer: 'adamm' is not one of adamw_torch, "),
    (
        93,
        "name=../../x",
        "name: '../../x' cannot name a run; use letters, digits, `.`, `_` and `-`, at most 64",
    ),
    (93, "name=a/b", "name: 'a/b' cannot name a run; use letters, digits, `.`, `_` and `-`, at most 64"),
    (93, "name=-rf", "name: '-rf' cannot name a run; use letters, digits, `.`, `_` and `-`, at most 64"),
    (93, "name=" + "a" * 300, f"name: '{'a' * 75}…' cannot name a run; use letters, digits"),
    (93, "name=a\0b", "name: 'a\\x00b' cannot name a run; use letters, digits"),
    (93, "name=a\nb", "name: 'a\\nb' cannot name a run; use letters, digits"),
    (21, f"{NUMBER}=a\nb", f"{NUMBER}=a\\nb: 'a\\nb' cannot be read as a value; quote it twice: "),
    (21, "a\nb", "a\\nb: is not a setting; write key=value, such as training.epochs=3"),
    (94, "hf_token=hf_secretsecretsecretsecret", "hf_token: looks like a secret; put it in the environment"),
    (
        94,
        "model.name=hf_secretsecretsecretsecret",
        "model.name: looks like a secret; put it in the environment",
    ),
    (
        94,
        "method.trl.hub_token=secret",
        "method.trl.hub_token: looks like a secret; put it in the environment",
    ),
    (26, "method.trl.eos_token=x", "method.trl.eos_token: eos_token is set by model.chat_template"),
    (26, "method.trl.pad_token=x", "method.trl.pad_token: pad_token is set by model.chat_template"),
    (94, "tracking.api_key=secret", "tracking.api_key: looks like a secret; put it in the environment"),
]

RECIPES: list[tuple[int, str, str]] = [
    (
        2,
        "model: tiny\ntraining:\n  lerning_rate: 1\n",
        "RECIPE:3 training.lerning_rate: unknown key; did you mean",
    ),
    (
        2,
        "tuning: qlra\n",
        "RECIPE:1 tuning: no option 'qlra'; known are full, lora, qlora; did you mean",
    ),
    (
        2,
        "defaults:\n  - tunning: lora\n",
        "RECIPE:1 defaults: 'tunning' is not a group; did you mean tuning?",
    ),
    (
        2,
        "tuning: full\ntuning.rank: 8\n",
        "RECIPE:2 tuning.rank: tuning=full has no such setting; tuning=lora and",
    ),
    (3, "training: {batch_size: many}\n", "RECIPE:1 training.batch_size: 'many' is not a whole number"),
    (
        5,
        "training:\n  learning_rate: .nan\n",
        "RECIPE:2 training.learning_rate: must be a finite number, got nan",
    ),
    (6, "tuning.rank: 0\n", "RECIPE:1 tuning.rank: must be 1..4096, got 0"),
    (
        9,
        "training:\n  epochs: null\n",
        "RECIPE:2 training.epochs: neither training.epochs nor training.max_steps is set; set one of them",
    ),
    (13, "seed: 1\nname: x\nseed: 2\n", "RECIPE:3: duplicate key 'seed' (first at line 1); keep one of them"),
    (
        13,
        "tuning.rank: 1\ntuning: {rank: 2}\n",
        "RECIPE:2 tuning.rank: duplicate key (first at line 1); keep one",
    ),
    (14, "training:\n\tepochs: 1\n", "RECIPE:2:1: a tab where YAML wants spaces; indent with two spaces"),
    (14, "training:\n  epochs: 1\n seed: 2\n", "RECIPE:3:2: not valid YAML"),
    (
        15,
        "name: !!python/object/apply:os.system [ls]\n",
        "RECIPE:1: unsafe YAML tag !!python/object/apply:os.system",
    ),
    (16, "model:\n  _target_: os.system\n", "RECIPE:2 model._target_: _target_ is not supported"),
    (16, "data.train: [{_target_: os.system}]\n", "RECIPE:1 data.train: _target_ is not supported"),
    (
        17,
        "data.train: ???\n",
        "RECIPE:1 data.train: no training rows are given; name a file, a folder or a hub id",
    ),
    (
        18,
        "name: ${oc.env:USER}\n",
        "RECIPE:1 name: the environment variable USER is not read here; write the value",
    ),
    (
        18,
        "data.eval: [a, '${data.train}']\n",
        "RECIPE:1 data.eval: the reference ${data.train} is not supported",
    ),
    (19, "", "RECIPE: the file is empty; write at least one `key: value` in it"),
    (19, "# nothing yet\n", "RECIPE: sets nothing; write at least one `key: value` in it"),
    (
        20,
        "hydra:\n  run:\n    dir: /x\n",
        "RECIPE:3 hydra.run.dir: Hydra's own settings are not used here; remove it",
    ),
    (25, "data: {max_length: 1}\n", "RECIPE:1 data.max_length: must be >= 2, got 1"),
    (26, "training.optimizer: sgdd\n", "RECIPE:1 training.optimizer: 'sgdd' is not one of adamw_torch, "),
    (93, "name: ../x\n", "RECIPE:1 name: '../x' cannot name a run; use letters, digits"),
    (
        94,
        "hf_token: hf_secretsecretsecretsecret\n",
        "RECIPE:1 hf_token: looks like a secret; put it in the environment",
    ),
    (
        94,
        "env: {WANDB_API_KEY: secret}\n",
        "RECIPE:1 env.WANDB_API_KEY: looks like a secret; put it in the environment",
    ),
]


def check(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: {said}" in captured.err
    assert all(line.startswith("error: ") for line in captured.err.splitlines())
    assert "secretsecret" not in captured.err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("row", "override", "said"), OVERRIDES, ids=[f"{row}-{text[:40]!a}" for row, text, _ in OVERRIDES]
)
def test_a_bad_override_is_refused(
    row: int,
    override: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    start = [argument for argument in START if argument.split("=")[0] != override.split("=")[0]]
    check([*start, override], said, capsys, tmp_path)


@pytest.mark.parametrize(("row", "recipe", "said"), RECIPES, ids=[f"{row}-{text[:40]!a}" for row, text, _ in RECIPES])
def test_a_bad_recipe_is_refused(
    row: int,
    recipe: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(recipe)
    start = [] if recipe.startswith(("data.train", "model")) else list(START)
    check([*start, "--recipe", "mine.yaml"], said.replace("RECIPE", "mine.yaml"), capsys, tmp_path)


@pytest.mark.parametrize("text", ["1e-4", "1E-04", "0.0001"])
def test_row_4_a_number_without_a_dot_is_one(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"training:\n  learning_rate: {text}\n")
    assert main(["train", *START, "--recipe", str(tmp_path / "mine.yaml"), "--cfg", "job"]) == 0
    assert "learning_rate: 0.0001" in capsys.readouterr().out


def test_row_13_an_override_given_twice_names_both(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    check([*START, "seed=1", "seed=2"], "seed: given twice, as seed=1 and seed=2; keep one", capsys, tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing.yaml", "missing.yaml: no such file; did you mean missing_.yaml?"),
        ("folder/x.yaml", "folder/x.yaml: no such file; check the path"),
        ("nowhere/x.yaml", "nowhere/x.yaml: no such file; there is no folder nowhere either"),
        ("folder", "folder/recipe.yaml: is a folder, not a file; name the YAML file in it"),
        ("/dev/zero", "/dev/zero: is not a regular file; name a YAML file"),
        # The memory of this process: a regular file whose reading fails whoever asks.
        ("/proc/self/mem", "/proc/self/mem: cannot be read (Input/output error); check its permissions"),
        ("no-such-recipe", "--recipe no-such-recipe: no such recipe; "),
        ("x" * 5000, f"--recipe {'x' * 60}"),
        ("./" + "x" * 5000, "xxx"),
    ],
)
def test_row_19_a_recipe_that_cannot_be_read(
    given: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "recipe.yaml").mkdir(parents=True)
    (tmp_path / "missing_.yaml").write_text("seed: 1\n")
    check(["--recipe", given], said, capsys, tmp_path)


def test_many_faults_are_cut_to_twenty_and_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("".join(f"key_{number}: 1\n" for number in range(5000)))
    check(
        [*START, "--recipe", str(tmp_path / "mine.yaml")],
        "4980 more of the same kind, 5000 in all",
        capsys,
        tmp_path,
    )
