"""The report of a run: what it shows of the files that are there, whatever is missing."""

import hashlib
import json
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from finetune.data.rows import Chat, Text
from finetune.data.template import say
from finetune.evaluate import plots
from finetune.evaluate.contents import read_contents
from finetune.evaluate.engines import Said
from finetune.evaluate.generate import Likelihood
from finetune.evaluate.ladder import NLL, Evaluation, Rung, answer_rows, as_json, judge
from finetune.evaluate.page import telling
from finetune.evaluate.report import write_report, write_results
from finetune.evaluate.table import answer_table, slice_cells, slices_left_out, verdict_line

HOSTILE = '<script>alert("x")</script> & | <img src=x onerror=y>'


def evaluation(rows: int = 40, shares: tuple[float, ...] = (0.1, 0.35, 0.9)) -> Evaluation:
    """An evaluation whose rungs are right on these shares of the rows."""
    rng = random.Random(4)
    names = ("base", "few_shot", "tuned")
    rungs = []
    for name, share in zip(names, shares, strict=True):
        right = [rng.random() < share for _ in range(rows)]
        texts = ['{"team": "billing", "urgent": true}' if ok else f"I am sorry {HOSTILE}" for ok in right]
        rungs.append(
            Rung(
                name,
                tuple(Likelihood(12.0 * (1.2 - share), 12) for _ in right),
                tuple(Said(text, ok, 0.05, 12, 40) for text, ok in zip(texts, right, strict=True)),
                (
                    ("exact", tuple(map(float, right))),
                    ("json_valid", tuple(map(float, right))),
                    ("json_fields", tuple(0.5 + ok / 2 for ok in right)),
                ),
                of="tuned" if name == "tuned" else "base",
                examples=(3, 14, 15) if name == "few_shot" else (),
            )
        )
    found = judge("exact", [Text(str(n)) for n in range(rows)], rungs, 1)
    return Evaluation(
        **{
            **found.__dict__,
            "prompts": tuple(f"<|user|>My invoice {n} is wrong {HOSTILE}<|assistant|>" for n in range(rows)),
            "references": ('{"team": "billing", "urgent": true}',) * rows,
            "max_new_tokens": 40,
        }
    )


def metrics() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, 121):
        loss = 2.6 * 0.97**step + 0.25 + random.Random(step).random() * 0.12
        rate = 2e-3 * min(1, step / 6) * (1 - step / 121)
        rows.append(
            {
                "step": step,
                "loss": loss,
                "learning_rate": rate,
                "tokens": step * 900,
                "tokens_per_second": 4e3,
            }
        )
        if step % 24 == 0:
            rows.append({"step": step, "eval_loss": 2.6 * 0.97**step + 0.34})
    return rows


PLAN = {
    "config": {
        "method": {"option": "sft"},
        "tuning": {"option": "lora", "rank": 16},
        "training": {"epochs": 3.0},
    },
    "model": {"name": "tiny", "architecture": "LlamaForCausalLM", "parameters": 2_400_000},
    "data": {
        "train": {"rows": 640, "tokens": 36_000, "supervised_tokens": 9_000},
        "held_out": {"rows": 160},
    },
    "machine": {"device_name": "cpu"},
    "resolved": {"precision": "fp32", "learning_rate": 3e-3},
    "reasons": {"model.precision": "exact, and fastest on cpu", "training.learning_rate": "as set"},
    "sources": {
        "training.learning_rate": "override",
        "training.epochs": "recipe support-json",
        "tuning": "override",
    },
    "batch": {"micro": 16, "accumulation": 1, "processes": 1, "effective": 16, "steps": 120, "epochs": 3.0},
    "trainable": 180_000,
    "warnings": [f"the rows are few {HOSTILE}"],
    "command": "finetune train --recipe support-json model=tiny",
}
LINEAGE = {"base": {"name": "tiny", "revision": None}, "seed": 42, "versions": {"torch": "2.13.0"}}
FILES: dict[str, str] = {
    "plan.json": json.dumps(PLAN),
    "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in metrics()),
    "eval.json": json.dumps({**as_json(evaluation()), "artefact": hashlib.sha256().hexdigest()[:16]}),
    "answers.jsonl": "".join(json.dumps(row) + "\n" for row in answer_rows(evaluation())),
    "lineage.json": json.dumps(LINEAGE),
    "config.yaml": f"name: {HOSTILE}\n",
    "preview.txt": f"row 1 {HOSTILE}",
    "preview.html": "<html></html>",
}


def write_run(folder: Path, *left_out: str) -> Path:
    run = folder / "my-run"
    run.mkdir()
    for name, text in FILES.items():
        if name not in left_out:
            (run / name).write_text(text, encoding="utf-8")
    return run


class Tags(HTMLParser):
    """Every tag with its attributes, the text outside of style, and whether tags close in order."""

    VOID = ("meta", "br", "img", "input", "link", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def shown(run: Path) -> Tags:
    tags = Tags(write_report(run).read_text(encoding="utf-8"))
    assert tags.open == []
    return tags


def test_a_whole_run_is_shown(tmp_path: Path) -> None:
    page = shown(write_run(tmp_path))
    for part in ("Did it help?", "Training", "Answers side by side", "What is learned", "How it was made"):
        assert part in page.text
    assert "better" in page.text
    assert "base + 3 examples" in page.text
    assert "16 × 1 × 1 = 16 rows a step" in page.text
    assert "recipe support-json" in page.text


@pytest.mark.parametrize("left_out", list(FILES))
def test_a_missing_file_is_left_out_and_the_rest_is_shown(tmp_path: Path, left_out: str) -> None:
    run = write_run(tmp_path, left_out)
    page = shown(run)
    assert "my-run" in page.text
    assert ("Did it help?" in page.text) == (left_out != "eval.json")
    assert ("Answers side by side" in page.text) == (left_out not in ("eval.json", "answers.jsonl"))
    assert ("What is learned" in page.text) == (left_out != "preview.txt")
    assert any(attributes.get("href") == "preview.html" for _, attributes in page.tags) == (
        left_out not in ("preview.html", "preview.txt")
    )
    assert (run / "report.md").exists()


def test_an_empty_directory_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, *FILES)
    assert "my-run" in shown(run).text


def test_the_page_needs_nothing_from_outside_and_runs_nothing(tmp_path: Path) -> None:
    page = shown(write_run(tmp_path))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert attributes.get("href") in (None, "preview.html")


def test_text_of_users_and_models_stays_text(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    page = shown(run)
    assert page.text.count(HOSTILE) >= 4  # warning, prompt, answer, configuration, preview
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "the rows are few &lt;script>" in text


def test_plots_are_sound_and_have_titles(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path)).read_text(encoding="utf-8")
    drawings = [part.partition("</svg>")[0] + "</svg>" for part in html.split("<svg")[1:]]
    assert len(drawings) == 3
    for drawing in drawings:
        root = ET.fromstring("<svg" + drawing)
        names = [child.tag.rpartition("}")[2] for child in root]
        assert names[:2] == ["title", "desc"]
        assert all(child.text for child in list(root)[:2])


def test_the_judged_rung_is_marked_wherever_it_stands(tmp_path: Path) -> None:
    run, stored = write_run(tmp_path, "answers.jsonl"), json.loads(FILES["eval.json"])
    other = {**stored["rungs"][0], "name": "twin", "of": "twin"}
    (run / "eval.json").write_text(json.dumps({**stored, "rungs": [*stored["rungs"], other]}), encoding="utf-8")
    html = write_report(run).read_text(encoding="utf-8")
    assert re.findall(r"<tr class=judged><td>(.*?)</td>", html) == ["tuned"]


def test_long_names_of_bars_have_room() -> None:
    one = plots.Bar("base + prompt + 3 examples", "three", 0.5, 0.4, 0.6)
    drawn = plots.bars("scores", [one], 1.0, str)
    end = float(next(line for line in drawn.split("<text")[1:] if one.name in line).split('x="')[1].split('"')[0])
    assert end - 7.5 * len(one.name) > 0


@pytest.mark.parametrize(("metric", "unit"), [("exact", " %"), ("nll", "")])
def test_what_a_plot_says_has_the_unit_of_the_picture(tmp_path: Path, metric: str, unit: str) -> None:
    stored = json.loads(FILES["eval.json"])
    for rung in stored["rungs"]:
        rung |= {"score": 0.5, "interval": [0.375, 0.625]}
    run = write_run(tmp_path)
    (run / "eval.json").write_text(json.dumps({**stored, "metric": metric}), encoding="utf-8")
    (run / "answers.jsonl").unlink()
    drawing = write_report(run).read_text(encoding="utf-8").partition("<svg")[2].partition("</svg>")[0]
    said = drawing.partition("<desc>")[2].partition("</desc>")[0]
    expected = ["50.0 %", "37.5 %", "62.5 %"] if unit else ["0.500", "0.375", "0.625"]
    assert re.findall(r"\d+\.\d+(?: %)?", said) == expected * 3
    written = re.findall(r">([^<>]+)</text>", drawing)
    assert written.count(expected[0]) >= 3
    assert all(text.endswith(unit) for text in written if text[0].isdigit())


@pytest.mark.parametrize(("metric", "drawn"), [("exact", "from 50 to 75"), ("nll", "from 0.5 to 0.75")])
def test_the_plot_of_strengths_has_the_unit_of_its_table(tmp_path: Path, metric: str, drawn: str) -> None:
    run, stored = write_run(tmp_path, "answers.jsonl"), json.loads(FILES["eval.json"])
    found = {"score_interval": [0.1, 0.9], "kl": 0.25, "kl_interval": [0.2, 0.3]}
    points = [{"strength": strength, "score": 0.5 + strength / 4, **found} for strength in (0.0, 1.0)]
    (run / "eval.json").write_text(json.dumps({**stored, "metric": metric, "strengths": points}), encoding="utf-8")
    plot = write_report(run).read_text(encoding="utf-8").partition("At other strengths")[2].partition("</svg>")[0]
    assert drawn in plot


def test_curves_go_through_their_points() -> None:
    drawn = plots.curves("t", [plots.Line("loss", "one", ((0, 2.0), (5, 1.0), (10, 0.0)))], x_name="step")
    path = ET.fromstring(drawn).find("{http://www.w3.org/2000/svg}polyline")
    assert path is not None
    dots = [tuple(map(float, dot.split(","))) for dot in path.attrib["points"].split()]
    assert [x for x, _ in dots] == pytest.approx([56, 330, 604])
    assert dots[0][1] < dots[1][1] < dots[2][1]  # a falling loss falls on the page
    assert dots[1][1] == pytest.approx((dots[0][1] + dots[2][1]) / 2)


def test_values_that_are_no_numbers_are_not_drawn() -> None:
    points = ((1.0, float("nan")), (2.0, 1.0), (3.0, float("inf")), (4.0, 0.5))
    drawn = plots.curves("t", [plots.Line("loss", "one", points)], x_name="step")
    assert "nan" not in drawn and "inf" not in drawn
    assert plots.curves("t", [plots.Line("loss", "one", points[:1])], x_name="step") == ""


def test_long_runs_are_thinned_to_what_can_be_seen() -> None:
    points = tuple((float(step), 1.0 / (step + 1)) for step in range(100_000))
    drawn = plots.curves("t", [plots.Line("loss", "one", points)], x_name="step")
    assert len(drawn) < 40_000
    assert "604.0," in drawn  # the last point is there


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.21, 0.23), (0, 120), (3, 98765), (1e-6, 2e-5), (-3, 7)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = plots.ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    gaps = [after - before for before, after in pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps))
    assert f"{gaps[0]:.0e}"[0] in "1235"


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert [row["step"] for row in read_contents(run).metrics] == [1]


def test_an_evaluation_of_weights_since_replaced_is_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"other weights")
    assert "Did it help?" not in shown(run).text


def test_results_are_written_between_their_marks_again_and_again(tmp_path: Path) -> None:
    run, card = write_run(tmp_path), tmp_path / "README.md"
    card.write_text("# head\n\n<!-- results -->\nold\n<!-- end of results -->\n\ntail\n", encoding="utf-8")
    write_results(run, card)
    once = card.read_text(encoding="utf-8")
    assert once.startswith("# head\n\n<!-- results -->\n\n| ")
    assert once.endswith("torch 2.13.0\n\n<!-- end of results -->\n\ntail\n")
    assert "old" not in once
    assert "| base + 3 examples |" in once
    write_results(run, card)
    assert card.read_text(encoding="utf-8") == once
    card.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="no place for results"):
        write_results(run, card)


def test_rows_that_tuning_lost_are_shown_too() -> None:
    rows = answer_rows(evaluation(shares=(0.2, 0.5, 0.6)))
    found = dict(telling(rows, "exact", "few_shot"))

    def gain(row: Any) -> float:
        scores = {name: given["scores"]["exact"] for name, given in row["answers"].items()}
        return float(scores["tuned"] - scores["few_shot"])

    harmed, improved, neither = found.values()
    assert [gain(row) for row in harmed] == [-1.0] * 3
    assert [gain(row) for row in improved] == [1.0] * 3
    assert [gain(row) for row in neither] == [0.0] * 3
    counts = [sum(sign(gain(row)) == wanted for row in rows) for wanted in (-1, 1, 0)]
    assert [title.rpartition(" ")[2] for title in found] == [str(count) for count in counts]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def test_parts_of_the_rows_are_compared_like_the_whole() -> None:
    found = evaluation(rows=60, shares=(0.1, 0.3, 0.9))
    asked = ("x" * (1 + place % 3 * 9) for place in range(60))
    result = as_json(replace(found, rows=tuple(Chat((say("user", text), say("assistant", "yes"))) for text in asked)))
    parts = {one["name"]: one for one in result["slices"] if one["by"] == "question"}
    assert {name: one["n"] for name, one in parts.items()} == {"short": 20, "middle": 20, "long": 20}
    tuned = next(rung for rung in found.rungs if rung.name == "tuned").values("exact")
    best = next(rung for rung in found.rungs if rung.name == result["best_baseline"]).values("exact")
    assert parts["long"]["scores"]["tuned"] == fmean(tuned[2::3])
    assert parts["long"]["difference"] == pytest.approx(fmean(tuned[2::3]) - fmean(best[2::3]))
    assert not [one for one in result["slices"] if one["by"] == "questions in the row"]  # all rows have one
    _, *rows = slice_cells(result)
    assert [row[0] for row in rows][:3] == ["question: short", "question: middle", "question: long"]
    assert result["slices_left_out"] == []
    assert slices_left_out(result) == ""


def test_parts_that_are_too_small_to_be_shown_are_counted(tmp_path: Path) -> None:
    found = evaluation(rows=60)
    lengths = [1 + place % 3 * 9 for place in range(60)]  # of the questions
    turns = [2 if place < 7 else 1 for place in range(60)]  # too few rows have several
    rows = [
        Chat((*[say("user", "x" * length), say("assistant", "yes")] * count,))
        for length, count in zip(lengths, turns, strict=True)
    ]
    result = as_json(replace(found, rows=tuple(rows)))
    assert {one["by"] for one in result["slices"]} == {"question"}
    assert result["slices_left_out"] == [
        {"by": "questions in the row", "name": "one", "n": 53},
        {"by": "questions in the row", "name": "several", "n": 7},
    ]
    said = "2 parts of the rows, with their rows: questions in the row one (53), questions in the row several (7)"
    assert said in slices_left_out(result)
    run = write_run(tmp_path)
    artefact = json.loads(FILES["eval.json"])["artefact"]
    (run / "eval.json").write_text(json.dumps({**result, "artefact": artefact}), encoding="utf-8")
    assert said in shown(run).text
    assert said in (run / "report.md").read_text(encoding="utf-8")


def test_a_few_rows_have_no_parts_and_that_is_said() -> None:
    rows = tuple(Chat((say("user", "x" * (1 + place)), say("assistant", "yes"))) for place in range(9))
    result = as_json(replace(evaluation(rows=9), rows=rows))
    assert result["slices"] == []
    assert [one["n"] for one in result["slices_left_out"]] == [3, 3, 3]


def test_the_table_names_rungs_scores_and_verdict() -> None:
    lines = answer_table(as_json(evaluation())).splitlines()
    assert "exact" in lines[0] and "95 % interval" in lines[0] and "fields right" in lines[0]
    assert [line.split("  ")[0] for line in lines[2:5]] == ["base", "base + 3 examples", "tuned"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1].startswith("better: tuned against base + 3 examples, exact +")
    assert lines[-1].endswith(", corrected p < 0.001), on 40 held-out rows")


def test_few_rows_are_said_to_be_too_few() -> None:
    said = verdict_line(as_json(evaluation(rows=6, shares=(0.4, 0.5, 0.6))))
    assert said.startswith("inconclusive")
    assert "underpowered" in said


def test_plain_text_has_a_table_of_its_own() -> None:
    rungs = [
        Rung(name, tuple(Likelihood(nll + row / 10, 10) for row in range(20)), of=name)
        for name, nll in (("base", 30.0), ("tuned", 20.0))
    ]
    result = as_json(judge(NLL, [Text(str(row)) for row in range(20)], rungs, 1))
    lines = answer_table(result).splitlines()
    assert "NLL per token" in lines[0]
    assert lines[-1].startswith("better: tuned against base, NLL per token -1.000")
    assert "corrected" not in lines[-1]  # one comparison is none too many


def test_a_model_that_was_chosen_has_its_name_among_the_settings(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    plan["config"]["model"] = {"name": "tiny", "revision": None}
    plan["sources"]["model"] = "override"
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    write_report(run)
    assert "| model | tiny | override |" in (run / "report.md").read_text(encoding="utf-8")
