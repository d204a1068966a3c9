"""The recipes that come with the package compose, are short, and bring their data."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.compose import compose
from finetune.config import flatten
from finetune.pipeline import is_pipeline
from finetune.pipeline.stages import compose_pipeline
from finetune.settings.catalogue import schema_of
from finetune.settings.recipe import find_recipe, read_recipe, recipe_names, shown_path


def test_there_are_recipes() -> None:
    assert recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_composes_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = [one.composed for one in compose_pipeline([], name).stages] if is_pipeline(name) else [compose([], name)]
    for data in (composed.config.data for composed in stages):
        assert Path(data.train).is_file()
        assert data.eval is None or Path(data.eval).is_file()
    assert len(find_recipe(name).read_text().splitlines()) <= 30


@pytest.mark.parametrize("name", [name for name in recipe_names() if not is_pipeline(name)])
def test_each_recipe_says_only_differences(name: str) -> None:
    recipe = read_recipe(name)
    choices = {choice.key: choice.value for choice in recipe.choices}
    defaults = {key: value for key, value, _ in flatten(schema_of({"method": "sft", **choices}))}
    made = {key: value for key, value, _ in flatten(compose([], name).config)}
    given = {setting.key for setting in recipe.settings}
    assert [key for key in given & made.keys() if made[key] == defaults[key]] == []


def test_paths_are_shown_from_here_when_they_lie_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "a" / "b") == "a/b"
    assert shown_path(tmp_path.parent / "b") == str(tmp_path.parent / "b")


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    assert compose(["model=tiny", "data.train=a"], "~/mine.yaml").config.seed == 7
