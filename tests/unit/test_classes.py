"""Answers that name classes: the numbers of each class, and which are taken for which."""

import pytest

from finetune.evaluate.classes import are_classes, by_class, macro_f1, no_class

#                       right      taken for    no class
REFERENCES = ["Spam"] * 4 + ["ham"] * 3 + ["news"] * 2
ANSWERS = ["spam", "SPAM.", "ham", "what?", "ham", "ham", "spam", "I do not know", ""]


def test_precision_recall_and_f1_are_those_of_the_counts() -> None:
    spam, ham, news = by_class(ANSWERS, REFERENCES)
    assert (spam.label, spam.rows, spam.precision, spam.recall) == ("Spam", 4, 2 / 3, 2 / 4)
    assert (ham.label, ham.rows, ham.precision, ham.recall) == ("ham", 3, 2 / 3, 2 / 3)
    assert (news.label, news.rows, news.precision, news.recall, news.f1) == ("news", 2, None, 0.0, 0.0)
    for one in (spam, ham):
        assert one.precision is not None
        assert one.f1 == pytest.approx(2 * one.precision * one.recall / (one.precision + one.recall))
    assert macro_f1([spam, ham, news]) == pytest.approx((4 / 7 + 2 / 3 + 0) / 3)


def test_every_row_stands_in_the_confusion_once_and_strange_answers_as_no_class() -> None:
    table = by_class(ANSWERS, REFERENCES)
    assert [dict(one.answers) for one in table] == [{"Spam": 2, "ham": 1, None: 1}, {"ham": 2, "Spam": 1}, {None: 2}]
    assert no_class(table) == 3


def test_what_was_never_asked_for_is_no_class() -> None:
    (first, second) = by_class(["toast", "b", "b", "b"], ["a", "a", "b", "b"])
    assert dict(first.answers) == {None: 1, "b": 1}
    assert (second.precision, second.recall) == (2 / 3, 1.0)


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (["a", "b", "A.", "b"], True),
        (["a", "b", "a"], False),  # not two rows a class
        (["a", "a", "a"], False),  # nothing to tell apart
        (["a" * 65, "b", "b", "a" * 65], False),  # a sentence is no name
        (['{"a": 1}', '{"a": 2}'] * 4, False),
    ],
)
def test_references_are_classes_when_they_are_short_and_come_again(references: list[str], expected: bool) -> None:
    assert are_classes(references) is expected
