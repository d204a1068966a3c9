"""The demo's story, on a recipe as small as one can be."""

import json
from pathlib import Path

import pytest

from finetune import demo
from finetune.errors import UserError

RECIPE = """
model:
  name: {model}
  precision: fp32
data:
  train: ./rows.jsonl
  eval_share: 0.4
training:
  max_steps: 1
  batch_size: 2
evaluate:
  few_shot: 1
  prompt_rows: 2
  max_new_tokens: 4
"""


@pytest.fixture
def recipe(tmp_path: Path, random_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of a random model and a dozen rows, in the demo's place; the current folder is empty."""
    turns = [
        {
            "messages": [
                {"role": "user", "content": f"fox {n}"},
                {"role": "assistant", "content": f"box {n % 3}"},
            ]
        }
        for n in range(24)
    ]
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=random_model_folder), encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(demo, "RECIPE", str(folder))
    return folder


def test_the_demo_trains_compares_and_says_what_is_next(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.command(json_output=False) == 0
    shown = capsys.readouterr().out
    for part in (
        "base + prompt",
        "1 example",
        "tuned",
        "held-out rows",
        "finetune train model=tiny data.train=my.jsonl",
    ):
        assert part in shown
    run = Path("runs/demo")
    for name in ("adapter", "eval.json", "answers.jsonl", "report.html", "plan.json"):
        assert (run / name).exists()

    assert demo.command(json_output=False) == 0
    again = capsys.readouterr().out
    assert _table(again) == _table(shown)  # also the seconds: the answers are those of before

    assert demo.command(json_output=True) == 0
    out = capsys.readouterr().out
    result = json.loads(out)
    assert result["outcome"]["status"] == "already_finished"
    assert result["evaluation"] == json.loads((run / "eval.json").read_text(encoding="utf-8"))


def _table(shown: str) -> list[str]:
    lines = shown.splitlines()
    start = next(index for index, line in enumerate(lines) if "95 % interval" in line)
    return lines[start : start + 7]


def test_another_run_in_the_demos_place_is_refused(recipe: Path) -> None:
    run = Path("runs/demo")
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    stored = {"config": {"seed": 1}, "data": {"fingerprint": "x"}, "batch": {"steps": 1}}
    (run / "plan.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        demo.command(json_output=True)
    (fault,) = caught.value.faults
    assert fault.where == "runs/demo"
    assert "remove that folder" in fault.mend
