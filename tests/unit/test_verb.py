"""The settings of a verb other than `train`."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from finetune.config import DataConfig, ModelConfig, setting
from finetune.errors import UserError
from finetune.settings.verb import read_verb


@dataclass
class Sorting:
    """Some settings of a verb."""

    order: str = setting("up", "Which way.", choices=("up", "down"))
    most: int = setting(5, "How many.", low=1)


@dataclass
class Schema:
    """A verb that sorts."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sorting: Sorting = field(default_factory=Sorting)


def test_files_and_settings_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.jsonl").touch()
    schema = Schema()
    arguments = ["x.jsonl", "a=b.jsonl", "sorting.most=7", "data.columns.prompt=question", "data.eval=/d/a,b.jsonl"]
    paths, given = read_verb("sort", schema, arguments)
    assert paths == ["x.jsonl", "a=b.jsonl"]
    assert (given.sorting.most, given.data.columns, given.data.eval) == (7, {"prompt": "question"}, "/d/a,b.jsonl")
    assert schema == Schema()


def test_columns_are_named_one_by_one_or_together() -> None:
    together = read_verb("sort", Schema(), ["data.columns={prompt: asked, completion: '1'}"])[1]
    assert together.data.columns == {"prompt": "asked", "completion": "1"}
    assert read_verb("sort", Schema(), ["data.columns.completion=1"])[1].data.columns == {"completion": "1"}


def test_a_preset_is_read_and_a_setting_wins_over_it() -> None:
    _, given = read_verb("sort", Schema(), ["model.name=other", "model=tiny"])
    assert given.model.name == "other"
    assert read_verb("sort", Schema(), ["model=tiny"])[1].model.name == "tiny"


@pytest.mark.parametrize(
    ("argument", "where", "says"),
    [
        ("sorting.mst=3", "sorting.mst", "did you mean sorting.most?"),
        ("most=3", "most", "did you mean sorting.most?"),
        ("sorting.most=0", "sorting.most", ">= 1"),
        ("sorting.most=x", "sorting.most", "not a whole number"),
        ("sorting.order=dwn", "sorting.order", "did you mean down?"),
        ("model=tny", "model", "did you mean tiny?"),
        ("training.epochs=3", "training.epochs", "`finetune sort` has no such setting"),
        ("tuning=full", "tuning", "`finetune sort` has no such setting"),
        ("sorting.most=", "sorting.most", "nothing stands after"),
        ("data.columns=asked", "data.columns", "is not a mapping"),
        ("data.columns.prompt=null", "data.columns.prompt", "is not a column's name"),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(argument: str, where: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_verb("sort", Schema(), [argument])
    (fault,) = caught.value.faults
    assert fault.where == where
    assert says in f"{fault.what} {fault.mend}"


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_verb("sort", Schema(), ["sorting.most=0", "x=1", "model=tny"])
    assert len(caught.value.faults) == 3
