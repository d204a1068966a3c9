"""What a YAML file may hold, and how what it may not hold is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.settings.yaml_files import Entry, read_entries


def entries(tmp_path: Path, text: str | bytes, whole: tuple[str, ...] = ()) -> list[Entry]:
    path = tmp_path / "cfg.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_entries(path, "cfg.yaml", whole)


def faults(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(UserError) as caught:
        entries(tmp_path, text)
    return [str(fault) for fault in caught.value.faults]


def test_mappings_become_dotted_keys_with_their_lines(tmp_path: Path) -> None:
    text = "a: 1\n# why\nb:\n  c: x\n  d: [1, two]\n\n  e: {f: 1e-4}\n"
    assert entries(tmp_path, text) == [
        Entry("a", 1, "1", 1),
        Entry("b.c", "x", "x", 4),
        Entry("b.d", [1, "two"], None, 5),
        Entry("b.e.f", 1e-4, "1e-4", 7),
    ]


def test_a_mapping_inside_an_open_one_is_kept_whole(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, "m:\n  trl:\n    kwargs: {a: {b: 1}}\n", ("m.trl",))
    assert (entry.key, entry.value) == ("m.trl.kwargs", {"a": {"b": 1}})


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("1e-4", 1e-4, "1e-4"),
        ("5E3", 5000.0, "5E3"),
        ("007", 7, "007"),
        ("null", None, None),
        ("'null'", "null", "null"),
        ("yes", True, "yes"),
        ("2026-01-02", "2026-01-02", "2026-01-02"),
        (".5", 0.5, ".5"),
        ("v1e5", "v1e5", "v1e5"),
    ],
)
def test_values_and_what_was_written(tmp_path: Path, text: str, value: object, written: str | None) -> None:
    (entry,) = entries(tmp_path, f"a: {text}\n")
    assert (entry.value, entry.text) == (value, written)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert entries(tmp_path, "\ufeffa: 1\n")[0].key == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "cfg.yaml:3: duplicate key 'a' (first at line 1); keep one of them"),
        ("b:\n  a: 1\n  a: 3\n", "cfg.yaml:3: duplicate key 'a' (first at line 2); keep one of them"),
        ("a:\n\tb: 1\n", "cfg.yaml:2:1: a tab where YAML wants spaces; indent with two spaces"),
        ("a:\n  b: 1\n c: 2\n", "cfg.yaml:3:2: not valid YAML"),
        ("a: [1, 2\n", "cfg.yaml:2:1: not valid YAML"),
        ("a: &x 1\nb: *x\n", "cfg.yaml:2:4: anchors and aliases are not supported; write the value out"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "cfg.yaml:1: unsafe YAML tag !!python/object/apply:os.system",
        ),
        ("a: !foo 1\n", "cfg.yaml:1: unsafe YAML tag !foo; write a plain value"),
        ("a: [{b: !foo 1}]\n", "cfg.yaml:1: unsafe YAML tag !foo; write a plain value"),
        ("<<: {a: 1}\n", "cfg.yaml:1: `<<` is not supported; write the values out"),
        ("- a\n- b\n", "cfg.yaml:1: must hold `key: value` lines, not a list or a text"),
        ("just text\n", "cfg.yaml:1: must hold `key: value` lines, not a list or a text"),
        ("a: 1\n---\nb: 2\n", "cfg.yaml:2:1: not valid YAML"),
        ("? [a, b]\n: 1\n", "cfg.yaml:1: a key must be a plain word"),
        ("a: x\x00y\n", "cfg.yaml:1: holds the control character"),
        ("a: 1\nb: x\x07y\n", "cfg.yaml:2: holds the control character"),
        (b"a: \xff\n", "cfg.yaml: is not UTF-8 at byte 3; save it as UTF-8"),
        ("a: " + "[" * 5000, "cfg.yaml: is nested too deeply; use at most 40 levels"),
        ("a: " + "[" * 60 + "]" * 60, "cfg.yaml:1: is nested too deeply; use at most 40 levels"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, "cfg.yaml:1: is nested too deeply; use at most 40 levels"),
        ("", "cfg.yaml: the file is empty; write at least one `key: value` in it"),
        (" \n\n", "cfg.yaml: the file is empty; write at least one `key: value` in it"),
        ("a: 1\n" * 50_000, "cfg.yaml: is over 200,000 bytes; name a configuration file, which is small"),
    ],
)
def test_faults_name_file_line_and_mend(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert faults(tmp_path, text)[0].startswith(said)


def test_all_faults_of_the_structure_are_reported(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "a: 1\na: 2\nb: !x 1\nc: {d: 1, d: 2}\n")) == 3
