"""Recipes with stages: what is read from them, what overrides do to them, and what is refused before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rows import worded, write_rows

from finetune.errors import UserError
from finetune.pipeline.checks import check
from finetune.pipeline.recipe import Limit
from finetune.pipeline.stages import Pipeline, Stage, compose_pipeline, resolved, results

RECIPE = """
model: tiny
training: {max_steps: 4, learning_rate: 0.01}
stages:
  sft:
    data: {train: ./sft.jsonl}
  again:
    from: sft
    data: {train: ./again.jsonl}
    tuning: {start: merge}
"""

Compose = Callable[..., Pipeline]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Compose a recipe, in a folder with rows."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "sft.jsonl", [worded(number, "violet") for number in range(30)])
    write_rows(tmp_path / "again.jsonl", [worded(number, "green") for number in range(100, 130)])

    def of(*overrides: str, recipe: str = RECIPE) -> Pipeline:
        (tmp_path / "two.yaml").write_text(recipe, encoding="utf-8")
        return compose_pipeline(overrides, "two.yaml")

    return of


def refused(compose: Compose, *overrides: str, recipe: str = RECIPE) -> list[str]:
    with pytest.raises(UserError) as caught:
        check(compose(*overrides, recipe=recipe))
    return [str(fault) for fault in caught.value.faults]


def stage(found: Pipeline, name: str) -> Stage:
    return found.stage(name)


def test_a_stage_has_what_is_shared_and_its_own_and_starts_from_the_run_before_it(pipeline: Compose) -> None:
    found = pipeline("name=p")
    assert [(one.name, one.start, one.run_dir) for one in found.stages] == [
        ("sft", None, "runs/p.sft"),
        ("again", "sft", "runs/p.again"),
    ]
    config = resolved(stage(found, "again"), results(found)).config
    assert (config.model.name, config.tuning.start, config.training.max_steps) == ("runs/p.sft", "merge", 4)
    assert (config.data.train, stage(found, "sft").composed.config.data.train) == ("again.jsonl", "sft.jsonl")
    assert found.command == "finetune pipeline --recipe two.yaml name=p"


def test_an_override_holds_for_every_stage_that_does_not_set_it_or_for_the_one_it_names(pipeline: Compose) -> None:
    found = pipeline("training.max_steps=7", "again.training.max_steps=9", "data.on_long=drop")
    configs = {one.name: one.composed.config for one in found.stages}
    assert {name: config.training.max_steps for name, config in configs.items()} == {"sft": 7, "again": 9}
    assert {config.data.on_long for config in configs.values()} == {"drop"}
    assert found.notes == ()
    third = RECIPE + "  last:\n    from: again\n    tuning.start: merge\n    data.train: ./sft.jsonl\n    seed: 1\n"
    noted = pipeline("seed=5", recipe=third)
    assert [one.composed.config.seed for one in noted.stages] == [5, 5, 1]
    assert noted.notes == ("seed=5 is not for the stage last, which sets it itself: last.seed=5 would be",)


def test_what_is_shared_of_an_option_that_a_stage_replaces_is_not_for_it(pipeline: Compose) -> None:
    recipe = RECIPE.replace("stages:", "tuning: {rank: 4}\nstages:").replace(
        "{start: merge}", "{start: merge}\n    tuning: full"
    )
    with pytest.raises(UserError, match="duplicate key 'tuning'"):
        pipeline(recipe=recipe)
    recipe = RECIPE.replace("stages:", "tuning: {rank: 4}\nstages:").replace(
        "tuning: {start", "defaults: [{tuning: full}]\n    tuning: {start"
    )
    found = pipeline(recipe=recipe)
    assert [one.composed.choices["tuning"] for one in found.stages] == ["lora", "full"]
    assert "tuning.rank" in found.stages[0].composed.sources
    continued = RECIPE.replace("stages:", "tuning: {rank: 4}\nstages:").replace("merge", "continue")
    check(pipeline(recipe=continued))  # the adapter keeps the rank it was made with


def test_the_same_command_finds_the_same_runs_and_a_change_those_from_there_on_anew(pipeline: Compose) -> None:
    def runs(*overrides: str) -> dict[str, str]:
        found = pipeline(*overrides)
        return {**results(found), "": str(found.folder)}

    first = runs()
    assert first == runs("training.log_every=1", "again.evaluate.rows=4")
    for name, run_dir in first.items():
        assert run_dir.startswith(f"runs/two.{name}-" if name else "runs/two-")
    later = runs("again.training.weight_decay=0.1")
    assert (later["sft"] == first["sft"], later["again"] == first["again"], later[""] == first[""]) == (
        True,
        False,
        False,
    )
    for change in ("sft.seed=1", "sft.training.max_steps=5"):  # a longer first stage is another start for the second
        earlier = runs(change)
        assert (earlier["sft"] == first["sft"], earlier["again"] == first["again"]) == (False, False)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    from: sft\n", "", "two.yaml:8 stages.again: does not say what it starts from; write `from: sft`, or `from: base` for the recipe's own model"),
        ("from: sft", "from: sff", "two.yaml:8 stages.again.from: there is no stage 'sff'; before it come sft; did you mean sft?"),
        ("from: sft", "from: again", "two.yaml:8 stages.again.from: 'again' is the stage itself; before it come sft; name an earlier stage, or put it further down"),
        ("  sft:\n", "  sft:\n    from: again\n", "two.yaml:6 stages.sft.from: 'again' comes later; it is the first: only `base` comes before it; name an earlier stage, or put it further down"),
        ("    tuning: {start: merge}\n", "", "again.tuning.start: must say what becomes of the adapter that the stage sft holds; set again.tuning.start=continue to go on training it, or again.tuning.start=merge"),
        ("  sft:\n", "  sft:\n    tuning: full\n", "two.yaml:11 stages.again.tuning.start: 'merge' has no effect: the stage sft holds no adapter; leave it out"),
        ("{start: merge}", "{start: merge, rnak: 2}", "two.yaml:10 stages.again.tuning.rnak: unknown key; did you mean tuning.rank?"),
        ("    from: sft\n", "    from: sft\n    model.name: tiny\n", "two.yaml:9 stages.again.model.name: starts from the stage sft, whose model it goes on with; leave it out, or write `from: base`"),
        ("    from: sft\n", "    from: base\n    model.name: stage:sft\n", "two.yaml:9 stages.again.model.name: 'stage:sft' is not how a stage goes on; write `from: sft`"),
        ("    from: sft\n", "    from: sft\n    name: x\n", "two.yaml:9 stages.again.name: is the pipeline's, which names the runs of its stages; write it beside `stages:`"),
        ("again:", "Again:", "two.yaml:8 stages.Again: 'Again' is no name for a stage; use lower-case letters, digits, `_` and `-`, at most 20, starting with a letter"),
        ("again:", "data:", "two.yaml:8 stages.data: 'data' means something else; choose another name for the stage"),
        ("    from: sft\n", "    from: sft\n    gate: {eval_loss: 2}\n", "two.yaml:9 stages.again.gate.eval_loss: sets no bound for a metric; write gate.at_least.<metric>, or gate.at_most.<metric>"),
        ("    from: sft\n", "    from: sft\n    gate: {at_most: {eval_loss: low}}\n", "two.yaml:9 stages.again.gate.at_most.eval_loss: must be a number, got 'low'; such as gate.at_most.eval_loss=0.65"),
        ("    from: sft\n", "    from: sft\n    gate: {at_most: {eval_los: 2}}\n", "two.yaml:9 stages.again.gate.at_most.eval_los: method=sft measures no 'eval_los' on held-out rows; did you mean eval_loss?"),
        ("./again.jsonl}", "./again.jsonl, eval_share: 0}\n    gate: {at_most: {eval_loss: 2}}", "two.yaml:10 stages.again.gate.at_most.eval_loss: there are no held-out rows to measure it on; give again.data.eval or again.data.eval_share, or leave it out"),
        ("./again.jsonl", "./agian.jsonl", "two.yaml:9 stages.again.data.train agian.jsonl: no such file; did you mean again.jsonl?"),
        ("{start: merge}", "{start: merge, targets: [nothing]}", "two.yaml:10 stages.again.tuning.targets: no layer matches 'nothing'; the model has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("stages:\n", "tuning.rnak: 2\nstages:\n", "two.yaml:4 tuning.rnak: unknown key; did you mean tuning.rank?"),
    ],
)  # fmt: skip
def test_a_fault_of_any_stage_is_named_with_its_line_before_anything_trains(
    old: str, new: str, said: str, pipeline: Compose
) -> None:
    assert old in RECIPE
    (found,) = refused(pipeline, recipe=RECIPE.replace(old, new))
    assert found.replace(f" in {Path.cwd()}", "") == said
    assert not [path for path in Path("runs").glob("*") if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train=other.jsonl", "data.train: no stage takes it: each sets it itself, or has other options; write it for one of the stages: sft.data.train, again.data.train"),
        ("again.name=x", "again.name: is the pipeline's, which names the runs of its stages; write name=x"),
        ("again.model=tiny", "again.model: starts from the stage sft, whose model it goes on with; leave it out"),
        ("again.from=base", "again.from: what a stage starts from is no setting; change it in the recipe"),
        ("again.tuning.rnak=1", "again.tuning.rnak: unknown key; did you mean tuning.rank?"),
        ("again.training.max_time=soon", "again.training.max_time: 'soon' is no duration; write it like 90m, 3h or 1h30m"),
        ("resume=must", "resume: 'must' is for one run, and a pipeline has several; write again.resume=must"),
        ("again.method=distil", "again.method: no option 'distil'; known are distill, dpo, grpo, kto, reward, rloo, sft; did you mean method=distill?"),
        ("name=" + "x" * 62, "name: " + "x" * 62 + ".sft is no name for a run; use letters, digits, `.`, `_` and `-`, at most 64, starting with a letter or digit"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named_as_it_was_given(override: str, said: str, pipeline: Compose) -> None:
    assert said in refused(pipeline, override)


def test_a_stage_is_named_where_its_method_takes_a_model(pipeline: Compose) -> None:
    recipe = """
model: tiny
data: {train: ./sft.jsonl}
stages:
  teacher:
    training: {max_steps: 4}
  student:
    from: base
    method: distill
    method.teacher: stage:teacher
"""
    found = pipeline("name=p", recipe=recipe)
    student = stage(found, "student")
    assert (student.start, student.reads, student.needs) == (None, ("teacher",), ("teacher",))
    assert resolved(student, results(found)).config.method.teacher == "runs/p.teacher"  # type: ignore[attr-defined]
    (said,) = refused(pipeline, recipe=recipe.replace("stage:teacher", "stage:student"))
    assert said.startswith("two.yaml:10 stages.student.method.teacher: 'student' is the stage itself")
    (said,) = refused(pipeline, "student.data.eval=stage:teacher", recipe=recipe)
    assert said == "student.data.eval: 'stage:teacher' names a stage, and no model is wanted here; name a file"


def test_rows_held_out_by_a_stage_on_which_one_before_it_is_trained_are_refused(pipeline: Compose) -> None:
    leaky = RECIPE.replace("./again.jsonl", "./again.jsonl, eval: ./leaky.jsonl")
    write_rows(Path("leaky.jsonl"), [worded(number, "violet") for number in (3, 4, 5, 6)])
    said = refused(pipeline, recipe=leaky)
    assert said and all("this held-out row is" in one and "sft training row" in one for one in said)
    assert "again.data.allow_contamination=true" in said[0]
    check(pipeline("again.data.allow_contamination=true", recipe=leaky))


def test_the_rows_of_two_stages_that_are_the_same_are_parted_alike(pipeline: Compose) -> None:
    check(pipeline(recipe=RECIPE.replace("./again.jsonl", "./sft.jsonl")))


@pytest.mark.parametrize(("bound", "value", "kept"), [("at_least", 0.7, True), ("at_least", 0.6, False), ("at_most", 0.6, True), ("at_most", 0.7, False), ("at_least", 0.65, True), ("at_least", float("nan"), False)])  # fmt: skip
def test_a_limit_is_kept_up_to_itself(bound: str, value: float, kept: bool) -> None:
    assert Limit("eval_accuracy", bound, 0.65, "here").holds(value) is kept
