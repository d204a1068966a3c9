"""The page of all settings is made from the schema and is not stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import RunConfig, flatten
from finetune.settings import reference
from finetune.settings.catalogue import GROUPS, option_kind, settings_of, typed_options


def test_the_page_is_fresh() -> None:
    assert reference.main(["--check"]) == 0


def test_a_stale_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "page.md")
    assert reference.main(["--check"]) == 1
    assert "python -m finetune.settings.reference" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_every_setting_of_every_option_is_on_the_page() -> None:
    page = reference.page()
    keys = {key for key, _, _ in flatten(RunConfig())}
    default = {"tuning": "lora", "method": "sft"}
    for group in GROUPS:
        for option in typed_options(group):
            keys |= set(settings_of({**default, group: option}))
            assert f"`{group}={option}`" in page
            assert option_kind(group, option) is not None
    assert [key for key in keys if f"| `{key}` |" not in page] == []


def test_every_setting_has_a_help() -> None:
    assert [key for key, _, metadata in flatten(RunConfig()) if not metadata.get("help", "").endswith(".")] == []
