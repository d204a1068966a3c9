"""One piece of the rows, looked at row by row: notes and sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from finetune.data import formats
from finetune.data.convert import Converter, their_name
from finetune.data.examine.answers import answer_hits, ends_well, is_json
from finetune.data.examine.languages import language
from finetune.data.examine.notes import Notes, Sample
from finetune.data.examine.private import masked, private_hits
from finetune.data.examine.settings import CheckSettings
from finetune.data.examine.sums import LONGEST_LABEL, MOST_WORDS_OF_LABEL, ROW, Run, Sums, hashes
from finetune.data.examine.text import text_hits
from finetune.data.examine.tokens import Measurer, Size, measurer
from finetune.data.examine.tools import tool_findings
from finetune.data.examine.turns import turn_findings
from finetune.data.examine.view import Hit, View, view
from finetune.data.likeness.words import count_words
from finetune.data.load import wanted
from finetune.data.pieces import HELD_OUT, Piece, records
from finetune.data.read import Record
from finetune.data.rows import SHAPES, Chat, Pair, Row, Vote, chats, compared
from finetune.errors import Fault, UserError, printable

BATCH = 256  # rows that are measured together


@dataclass
class Looked:
    """What one piece holds."""

    notes: Notes
    sums: Sums
    used: set[str] = field(default_factory=set)  # which of data.columns it has
    unmeasured: Fault | None = None  # why rows could not be measured in tokens
    texts: list[str] = field(default_factory=list)  # by which rows are compared, where they are


class Look:
    """Looks at pieces. Each process has its own, and loads the tokenizer when it looks for the first time."""

    def __init__(self, settings: CheckSettings) -> None:
        self._settings = settings
        self._disabled = frozenset(settings.check.disable)
        self._measurer: Measurer | None = None

    def __call__(self, piece: Piece) -> Looked:
        """Everything that can be said of a piece by itself."""
        self._measurer = self._measurer or measurer(self._settings)
        notes = Notes(self._settings.check.samples, self._disabled)
        looked = Looked(notes, Sums())
        data = self._settings.data
        converter = Converter(data, SHAPES, notes)
        try:
            if piece.first is not None:
                converter.begin(piece.first)
            found = self._rows(records(piece, data, wanted(data, SHAPES), notes), converter, looked)
            for batch in _batches(found):
                self._count(piece, batch, looked)
        except UserError as error:
            if not piece.is_later:
                for fault in error.faults:
                    notes.add(fault.where, fault.what, fault.mend, fault.code or "refused")
        return looked

    def _rows(self, records: Iterable[Record], converter: Converter, looked: Looked) -> Iterator[_Found]:
        columns = self._settings.data.columns
        for record in records:
            looked.sums.records += 1
            if len(looked.used) < len(columns):
                looked.used.update(ours for ours, theirs in columns.items() if theirs in record.values)
            row = converter.row(record)
            if row is not None:
                values = converter.values(record)
                yield _Found(record, row, view(row, values), converter.layout, columns)

    def _count(self, piece: Piece, batch: list[_Found], looked: Looked) -> None:
        sizes = self._sizes(batch, looked)
        held_out = piece.split == HELD_OUT
        numbers = []
        for found, size in zip(batch, sizes, strict=True):
            self._search(found, looked)
            words, answer_words = self._describe(found, looked, held_out)
            turns = max((len(chat.messages) for chat in chats(found.row)), default=0)
            fields = (*hashes(found.row), found.record.row, words, answer_words, turns, size.tokens, size.learned)
            numbers.append(fields)
            if self._settings.check.near is not False:
                looked.texts.append(compared(found.row))
        looked.sums.rows.append(np.array(numbers, dtype=ROW))
        for found in batch:
            runs = looked.sums.runs
            if runs and runs[-1].file == found.record.file:
                runs[-1] = Run(found.record.file, runs[-1].rows + 1)
            else:
                runs.append(Run(found.record.file, 1))

    def _sizes(self, batch: list[_Found], looked: Looked) -> list[Size]:
        if self._measurer is None or looked.unmeasured is not None:
            return [Size()] * len(batch)
        measured = self._measurer.measure([(found.record.where, found.row) for found in batch], looked.notes)
        if isinstance(measured, Fault):
            looked.unmeasured = measured
            return [Size()] * len(batch)
        return measured

    def _search(self, found: _Found, looked: Looked) -> None:
        """Note every defect of the row, each code once."""
        seen: set[str] = set()
        for hit in chain(text_hits(found.view.text), private_hits(found.view.text), answer_hits(found.view)):
            if not hit.shown:
                looked.sums.private[hit.what] += 1
            if hit.code not in seen:
                seen.add(hit.code)
                _note_hit(looked.notes, hit, found)
        for code, what, column in chain(_tool_findings(found), turn_findings(found.view.values)):
            if code not in seen:
                seen.add(code)
                sample = Sample(found.record.where, found.theirs(column), printable(masked(what)))
                looked.notes.note(code, sample)

    def _describe(self, found: _Found, looked: Looked, held_out: bool) -> tuple[int, int]:
        """Count what a row is like; gives its words and those of its last answer."""
        text, answer, sums, notes = found.view.text, found.view.answer, looked.sums, looked.notes
        sums.shapes[found.row.shape] += 1
        if isinstance(found.row, Vote):
            sums.up += found.row.label
        if isinstance(found.row, Pair):
            other = len(found.row.rejected.messages[-1]["content"])
            sums.longer += len(answer) > other
            sums.shorter += len(answer) < other
        sums.characters += len(text)
        answer_words = count_words(answer)
        words = answer_words if text is answer else count_words(text)
        if held_out:
            return words, answer_words
        spoken = language(answer) or language(text)
        if spoken:
            sums.add_language(spoken, Sample(found.record.where, found.column(), ""), notes.most)
        if not isinstance(found.row, Chat):
            return words, answer_words
        self._describe_answer(found, answer, looked)
        asked = language(found.view.asked())
        if spoken and asked and asked != spoken:
            what = f"asked in {asked}, answered in {spoken}"
            notes.note("language-switch", Sample(found.record.where, found.column(), what))
        return words, answer_words

    def _describe_answer(self, found: _Found, answer: str, looked: Looked) -> None:
        sums, notes = looked.sums, looked.notes
        if len(answer) <= LONGEST_LABEL and len(answer.split()) <= MOST_WORDS_OF_LABEL:
            sums.add_label(answer.strip())
        if is_json(answer):
            sums.json += 1
        else:
            _note_end(notes, "answer-not-json", "is not JSON", answer, found)
            ended = ends_well(answer)
            sums.ended += ended is True
            sums.unended += ended is False
            if ended is False:
                _note_end(notes, "answer-cut", "ends", answer, found)


@dataclass(frozen=True, slots=True)
class _Found:
    """A row that is fit to be learned from."""

    record: Record
    row: Row
    view: View
    layout: str
    columns: dict[str, str]  # our names to the file's

    def column(self, turn: int | None = None, at: int = 0) -> str:
        """The file's column that a turn came from; without one that of the last."""
        return self.theirs(formats.column(self.layout, self.view.values, self.row, turn, at))

    def theirs(self, column: str) -> str:
        """What the file calls a column."""
        return their_name(column, self.record, self.columns)


def _tool_findings(found: _Found) -> Iterator[tuple[str, str, str]]:
    """What is wrong with tools and their calls: code, words and column."""
    for chat in chats(found.row)[:1]:  # both sides of a pair have the same tools
        tools = "tools" if found.view.values.get("tools") else "functions"
        for code, what, turn in tool_findings(chat):
            yield (
                code,
                what,
                tools if turn is None else formats.column(found.layout, found.view.values, found.row, turn),
            )


def _note_hit(notes: Notes, hit: Hit, found: _Found) -> None:
    if not notes.wants(hit.code):
        notes.note(hit.code, Sample("", "", ""))
        return
    who = found.view.who(hit.begin)
    said = f"{who}: {hit.what}" if who else hit.what
    if hit.shown:
        said += f" in {found.view.around(hit, masked(found.view.text))!r}"
    notes.note(hit.code, Sample(found.record.where, found.column(*found.view.turn(hit.begin)), printable(said)))


def _note_end(notes: Notes, code: str, what: str, answer: str, found: _Found) -> None:
    sample = Sample("", "", "")
    if notes.wants(code):
        end = masked(answer)[-60:]
        sample = Sample(found.record.where, found.column(), printable(f"the last answer {what}: {end!r}"))
    notes.note(code, sample)


def _batches(found: Iterator[_Found]) -> Iterator[list[Any]]:
    batch: list[_Found] = []
    for one in found:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
