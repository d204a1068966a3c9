"""What `finetune evaluate` measures besides the held-out rows, from the command to the report."""

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import chat_row, write_rows

from finetune.cli import main
from finetune.evaluate import changes, table

Finetune = Callable[..., tuple[int, str, str]]
EXAM = {
    "task": "exam",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "exam.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "right",
}
ASKED = ("evaluate.strengths=[0,0.5,1]", "evaluate.tasks=[exam.yaml]", "evaluate.neutral_rows=12")
FEW = ("evaluate.neutral_tokens=8", "evaluate.rungs=[base]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the embedded model, and a task."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        rows = [chat_row(number) for number in range(200)]
        distinct = list({json.dumps(row): row for row in rows}.values())[:60]
        write_rows(folder / "rows.jsonl", distinct)
        exam = [{"q": f"{n} and {n} is", "choices": [str(2 * n), str(2 * n + 1)], "right": n % 2} for n in range(12)]
        write_rows(folder / "exam.jsonl", exam)
        (folder / "exam.yaml").write_text(yaml.safe_dump(EXAM), encoding="utf-8")
        assert main(["train", "model=tiny", "data.train=rows.jsonl", "name=mine", "training.max_steps=8"]) == 0
    return folder


def test_all_of_it_is_measured_shown_and_refused_by_a_limit(
    trained: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    code, out, said = finetune("evaluate", "mine", *ASKED, *FEW, "--json")
    assert code == 0, said
    result: dict[str, Any] = json.loads(out)
    run = trained / "runs" / "mine"
    assert json.loads((run / "eval.json").read_text(encoding="utf-8")) == result
    assert result["forgetting"]["prompts"] == 12
    none, _, whole = result["strengths"]
    scores = {rung["name"]: rung["score"] for rung in result["rungs"]}
    assert (none["score"], whole["score"]) == (scores["base"], scores["tuned"])
    assert none["kl"] == 0 < whole["kl"] == result["forgetting"]["measures"][0]["change"]
    (task,) = result["tasks"]["metrics"][:1]
    assert (task["task"], task["n"]) == ("exam", 12)

    shown = changes.evaluation_text(result)
    assert shown.startswith(table.answer_table(result))
    code, out, _ = finetune("evaluate", "mine", *ASKED, *FEW)
    assert out.startswith(shown)
    assert f"{whole['kl']:.3f} nats a token apart" in shown
    assert f"{task['tuned']:.3f}" in shown
    for name in ("report.html", "report.md"):
        page = unescape((run / name).read_text(encoding="utf-8"))
        for title in ("What else changed?", "At other strengths", "Tasks of lm-evaluation-harness"):
            assert title in page, name
        cells = [*changes.forgetting_cells(result["forgetting"]), *changes.task_cells(result["tasks"])]
        cells += changes.strength_cells(result["strengths"], result["metric"])
        assert all(cell in page for row in cells for cell in row), name
    assert (run / "report.html").read_text(encoding="utf-8").count("by strength of the adapter") == 2

    code, out, said = finetune("evaluate", "mine", *FEW, "evaluate.neutral_rows=12", "evaluate.max_kl=1e-9", "--json")
    assert code == 3
    (line,) = [text for text in said.splitlines() if text.startswith("error: ")]
    assert line.startswith("error: runs/mine: the tuned model changed too much elsewhere: evaluate.max_kl=1e-09: ")
    written = json.loads((run / "eval.json").read_text(encoding="utf-8"))
    assert written == json.loads(out)
    assert line.endswith(written["forgetting"]["exceeded"][0])
    assert "exceeded: evaluate.max_kl" in (run / "report.md").read_text(encoding="utf-8")
    assert written["tasks"] is None and not (run / "tasks.jsonl").exists()


def test_a_model_that_nobody_tuned_has_forgotten_nothing(
    trained: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    code, out, said = finetune("evaluate", "tiny", "data.eval=rows.jsonl", "evaluate.rows=4", "--json")
    assert code == 0, said
    assert json.loads(out)["forgetting"] is None
    code, _, said = finetune("evaluate", "tiny", "data.eval=rows.jsonl", "evaluate.strengths=[0.5]")
    assert code == 2
    assert "evaluate.strengths: has no effect" in said
