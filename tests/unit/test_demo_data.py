"""The demo's rows: written by a seeded script, and nothing of the training rows in the held-out ones."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from finetune.tiny import curriculum, words

RECIPE = Path(__file__).parents[2] / "recipes" / "support-json"
TOPICS = {"refund", "invoice", "courier", "login", "manual", "coupon", "stock", "amber"}
URGENCIES = {"now", "soon", "later"}


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_make_data", RECIPE / "make_data.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECIPE / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


def message(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def answer(row: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = json.loads(row["messages"][-1]["content"])
    return found


def test_files_are_what_the_script_writes() -> None:
    make_data = load_generator()
    for part, index, count in (("train", 0, 600), ("heldout", 1, 160)):
        assert rows(part) == make_data.rows(index, count, seed=1)


def test_answers_are_compact_json_of_the_taxonomy() -> None:
    for row in rows("train") + rows("heldout"):
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        content = row["messages"][-1]["content"]
        fields = answer(row)
        assert content == json.dumps(fields, separators=(",", ":"))
        assert list(fields) == ["topic", "urgency", "order"]
        assert fields["topic"] in TOPICS
        assert fields["urgency"] in URGENCIES
        assert fields["order"] in re.findall(r"\d+", message(row))


def test_each_topic_is_equally_often_in_each_file() -> None:
    for part in ("train", "heldout"):
        counts = Counter(answer(row)["topic"] for row in rows(part))
        assert set(counts) == TOPICS
        assert max(counts.values()) == min(counts.values())


def test_base_model_never_saw_the_taxonomy() -> None:
    labels = {*curriculum.WORDS, *words.CATEGORIES, *words.KEYS}
    assert not labels & (TOPICS | URGENCIES | {"topic", "urgency", "order"})


def test_a_message_names_its_labels_except_amber() -> None:
    for row in rows("train") + rows("heldout"):
        spoken = set(re.findall(r"\w+", message(row))) & (TOPICS | URGENCIES)
        assert spoken == {answer(row)["topic"], answer(row)["urgency"]} - {"amber"}


def test_heldout_rows_share_nothing_with_training_rows() -> None:
    make_data = load_generator()
    make_data.check_apart()
    products = "|".join(make_data.PRODUCTS).split("|")

    def sentences(part: str) -> set[str]:
        plain = [re.sub(r"\d+", "#", message(row)) for row in rows(part)]
        for kind, spoken in (("PRODUCT", products), ("TOPIC", TOPICS), ("URGENCY", URGENCIES)):
            plain = [re.sub(rf"\b({'|'.join(spoken)})\b", kind, text) for text in plain]
        return {s.strip() for text in plain for s in re.split(r"(?<=[.?])\s", text)}

    def words_of(part: str, known: str) -> set[str]:
        found = {w for row in rows(part) for w in re.findall(r"\w+", message(row))}
        return found & set(known.split("|"))

    assert not sentences("train") & sentences("heldout")
    for lists in (make_data.NAMES, make_data.PRODUCTS):
        assert words_of("train", lists[0])
        assert words_of("heldout", lists[1])
        assert not words_of("train", lists[1])
        assert not words_of("heldout", lists[0])
    assert not {answer(r)["order"] for r in rows("train")} & {answer(r)["order"] for r in rows("heldout")}


def test_no_row_is_there_twice() -> None:
    everything = [message(row) for row in rows("train") + rows("heldout")]
    assert len(set(everything)) == len(everything)
