"""What the plan says of the held-out rows before there is any answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plans import plan, rows

from finetune.data.prepare import PreparedData
from finetune.plan import as_json
from finetune.plan.text import describe


def held_out(count: int, groups: int | None = None) -> PreparedData:
    """Facts of so many held-out rows."""
    data = rows(held_out=count)
    assert data.held_out is not None
    return replace(data, held_out=replace(data.held_out, groups=count if groups is None else groups))


def line(data: PreparedData, *overrides: str) -> str:
    """What the plan says of them."""
    return next(said for said in describe(plan(*overrides, data=data)).splitlines() if said.startswith("evaluation"))


def test_the_plan_says_what_the_rows_can_show_and_how_many_it_takes() -> None:
    said = line(held_out(160))
    assert "160 held-out rows can show a difference of 11 points; 5 points take about 790 rows" in said
    assert "25% of the rows are right with one model only" in said


def test_rows_of_groups_may_show_less() -> None:
    assert (
        "160 held-out rows in 40 groups can show a difference of 11 points, or a difference of 22 points should"
        in line(held_out(160, groups=40))
    )


def test_few_rows_can_show_nothing() -> None:
    assert "5 held-out rows can show no difference" in line(held_out(5))


def test_a_difference_larger_than_what_differs_is_said_to_go_one_way() -> None:
    said = line(held_out(18))
    assert "18 held-out rows can show a difference of 44 points if no row goes the other way; 5 points" in said
    assert "the other way" not in line(held_out(160))


def test_rows_that_are_not_answered_do_not_count() -> None:
    assert "100 of 160 held-out rows can show a difference of 14 points" in line(held_out(160), "evaluate.rows=100")


def test_programs_are_told_the_same() -> None:
    found = as_json(plan(data=held_out(160, groups=40)))["reach"]
    assert found == {
        "rows": 160,
        "groups": 40,
        "detectable": pytest.approx(0.1107, abs=1e-4),
        "detectable_in_groups": pytest.approx(0.2215, abs=1e-4),
        "wanted": 0.05,
        "rows_needed": 785,
    }


@pytest.mark.parametrize("data", [rows(held_out=None), rows(shape="text")], ids=["none", "text"])
def test_nothing_is_said_where_nothing_is_answered(data: PreparedData) -> None:
    made = plan("data.eval_share=0" if data.held_out is None else "data.eval_share=0.1", data=data)
    assert made.reach is None
    assert "evaluation" not in describe(made)


@pytest.mark.parametrize(
    ("count", "given", "warned"),
    [
        (150, "evaluate.rows=200", False),  # all are answered
        (5000, "evaluate.rows=200", True),
        (5000, "evaluate.rows=800", False),  # enough are
        (300, "evaluate.rows=200", True),
        (300, "evaluate.rows=300", False),
    ],
)
def test_rows_that_are_left_out_though_needed_are_warned_of(count: int, given: str, warned: bool) -> None:
    warnings = [said for said in plan(given, data=held_out(count)).warnings if said.startswith("evaluate.rows")]
    assert bool(warnings) == warned


def test_the_warning_names_what_would_show_more() -> None:
    (said,) = [one for one in plan(data=held_out(5000)).warnings if one.startswith("evaluate")]
    assert said == (
        "evaluate.rows=200 leaves out some of the 5,000 held-out rows and can show a difference of 10 points; "
        "evaluate.rows=790 would show a difference of 5 points"
    )
    assert not any(one.startswith("evaluate") for one in plan("evaluate.rows=790", data=held_out(5000)).warnings)
