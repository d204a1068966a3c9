"""Rows measured in the tokens of a model: rendered, masked and cut as `train` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.encode import MASKED, Encoded, Encoder, Refused, over_length
from finetune.data.examine.notes import Notes, Sample
from finetune.data.examine.settings import CheckSettings
from finetune.data.rows import LEARNED, Chat, Row, chats, is_plain, unrolled
from finetune.data.sandbox import TemplateFault
from finetune.data.sides import Sided, encode_sides
from finetune.errors import Fault, counted

# Codes of what the encoder refuses.
REFUSED = {
    "template": "template",
    "long": "nothing-learned",
    "nothing": "nothing-learned",
    "same": "pair-tokens",
    "unrollable": "template",
}
STOP_WITHIN = (
    3  # learned tokens at the end of an answer among which its stop token is: some write a line break after it
)


@dataclass(frozen=True)
class Size:
    """A row in tokens; 0 where it was not measured."""

    tokens: int = 0
    learned: int = 0


class Measurer:
    """Measures rows with the tokenizer of a model."""

    def __init__(self, encoder: Encoder, on_long: str) -> None:
        self._encoder, self._on_long = encoder, on_long
        self._stops: frozenset[int] = frozenset()

    def measure(self, rows: Sequence[tuple[str, Row]], notes: Notes) -> list[Size] | Fault:
        """The size of each row; notes what is wrong with it. A Fault where no row can be rendered at all."""
        try:
            if any(chats(row) and not is_plain(row) for _, row in rows):
                self._encoder.template  # noqa: B018  # read, compiled and tried when first asked for
            self._stops = self._stops or frozenset(self._encoder.stop_ids)
        except TemplateFault as fault:
            return Fault("model.chat_template", fault.what, fault.mend, "template")
        sided = iter(encode_sides(self._encoder, [row for _, row in rows if row.shape not in LEARNED]))
        learned = iter(self._encoder.encode([row for _, row in rows if row.shape in LEARNED]))
        return [self._size(*one, next(learned if one[1].shape in LEARNED else sided), notes) for one in rows]

    def _size(self, place: str, row: Row, result: Encoded | Sided | Refused, notes: Notes) -> Size:
        if isinstance(row, Chat) and isinstance(result, Refused) and result.kind == "unrollable":
            parts = unrolled(row)
            notes.note("row-unrolled", Sample(place, "", f"becomes {counted(len(parts), 'row')}, one for each answer"))
            sizes = [self._taken(place, item, notes) for item in self._encoder.encode(parts)]
            return Size(sum(size.tokens for size in sizes), sum(size.learned for size in sizes))
        return self._taken(place, result, notes)

    def _taken(self, place: str, result: Encoded | Sided | Refused, notes: Notes) -> Size:
        """The size of what is kept of a row; the same cases as when rows are prepared."""
        is_long = result.kind == "long" if isinstance(result, Refused) else result.truncated
        if is_long and self._on_long != "truncate":
            what, mend = over_length(result.length, self._encoder.max_length or 0)
            if self._on_long == "fail":
                notes.add(place, what, mend, "too-long")
            else:
                notes.note("row-dropped", Sample(place, "", what))
            return Size()
        if isinstance(result, Refused):
            notes.add(place, result.what, result.mend, REFUSED[result.kind])
            return Size()
        answers = (
            result.answers if isinstance(result, Sided) else [[token for token in result.labels if token != MASKED]]
        )
        if is_long:
            cut = f"{result.length:,} tokens, of which data.max_length={self._encoder.max_length:,} keeps the first"
            notes.note("answer-truncated", Sample(place, "", cut))
        elif not all(self._stops.intersection(answer[-STOP_WITHIN:]) for answer in answers):
            notes.note("stop-not-learned", Sample(place, "", "what is learned ends in no stop token"))
        if result.unlearned_reasoning:
            what = f"the reasoning of {counted(result.unlearned_reasoning, 'answer')} is left out"
            notes.note("reasoning-unlearned", Sample(place, "", what))
        return Size(result.tokens, sum(map(len, answers)))


def measurer(settings: CheckSettings) -> Measurer | None:
    """What measures rows, when a model is given; raises UserError for what is wrong with the model."""
    if not settings.has_model:
        return None
    from finetune.model_files import inspect_model
    from finetune.plan.facts import longest_row
    from finetune.tokenizer import load_tokenizer, stop_ids

    given = settings.model
    model = inspect_model(given.name, given.revision, given.trust_remote_code)
    longest = longest_row(settings.data.max_length, model)
    tokenizer = load_tokenizer(model, given.chat_template)
    encoder = Encoder(tokenizer, settings.method.learn, longest, stop_ids(model, tokenizer))
    return Measurer(encoder, settings.data.on_long)
