"""The rows that are answered and those that may be learned from in a prompt, and the proof that they are apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import DataConfig
from finetune.data.faults import FaultLog
from finetune.data.groups import dependent_rows
from finetune.data.leaks import Compared, note_leak, strongest
from finetune.data.likeness.contamination import overlaps
from finetune.data.prepared import Allowed
from finetune.data.rows import LEARNED, Chat, Row, Text, compared, from_json
from finetune.errors import Fault, UserError, counted, listed
from finetune.evaluate.paid import rewards_of
from finetune.evaluate.questions import choose_rows, conversations
from finetune.evaluate.settings import EvaluateSettings, MeasuredRows
from finetune.evaluate.shapes import BY_LIKELIHOOD, SAID, check_metric, default_metric
from finetune.evaluate.subjects import Subject
from finetune.lineage import trained_before
from finetune.log import log
from finetune.plan import PLAN_FILE, load_plan

if TYPE_CHECKING:
    from finetune.data.load import Loaded
    from finetune.data.prepare import SplitFacts
    from finetune.plan import RunPlan

POOL = 10_000  # training rows that examples and prompts are drawn from
NO_SUCH_ROWS = ("other-method", "layout-unknown")  # faults that say that rows are of another shape
SHOWN_PLACES = 4  # of rows that are wrong alike, beside the first


@dataclass(frozen=True)
class Measured:
    """The rows of an evaluation."""

    shape: str  # one of rows.SHAPES
    held_out: tuple[Row, ...]
    places: tuple[str, ...]  # where each of them stands
    training: tuple[Chat, ...]  # for examples and prompts
    reference: str | None = None  # the column of tasks with the right answer; None: the first of the usual ones
    given: Any = None  # data.eval; None for a run's own rows
    split_fingerprint: str | None = None  # of all rows that the run held out
    contamination: tuple[Allowed, ...] = ()
    clusters: tuple[object, ...] | None = None  # rows of one cluster are not independent; None when all are

    @property
    def chats(self) -> list[Chat]:
        """The rows that are answered."""
        return conversations(self.held_out, self.reference)


def measured_rows(subjects: Sequence[Subject], settings: EvaluateSettings, seed: int) -> Measured:
    """The rows that the first target brings, or the settings name; what is wrong with them is raised at once."""
    first = subjects[0].plan
    paid_for = rewards_of(subjects[0].trained)
    reference = paid_for.reference if paid_for else None
    if settings.data.eval is not None:
        measured, texts = _from_files(subjects[0], settings, seed, reference)
    elif first is not None:
        measured, texts = _own_rows(first, settings.evaluate.rows, seed, reference)
    else:
        mend = "write data.eval=FILE, or name a run first, which brings its held-out rows"
        raise UserError.at("data.eval", f"no rows are given to evaluate {subjects[0].given} on", mend)
    metric = settings.evaluate.metric or default_metric(measured.shape, subjects[0].trained)
    _check_askable(measured, subjects, metric)
    return _apart(measured, texts, subjects, settings)


@dataclass(frozen=True)
class _Texts:
    """The held-out rows as they are compared, and those to learn from where a file names them."""

    held_out: Compared
    training: Compared | None = None


def _own_rows(plan: RunPlan, most: int, seed: int, reference: str | None) -> tuple[Measured, _Texts]:
    from finetune.data.prepare import read_groups, read_rows

    split = check_rows(Path(plan.run_dir), plan)
    held_out = choose_rows(read_rows(split), split.rows, most, seed)
    places = [_own_place(plan, index) for index in choose_rows(range(split.rows), split.rows, most, seed)]
    every = [compared(row) for row in read_rows(split)]
    groups = dependent_rows(((str(group),) for group in read_groups(split)), every)
    training = conversations(read_rows(plan.data.train, POOL), reference)
    fingerprint = plan.data.held_out_fingerprint
    measured = Measured(
        plan.data.shape,
        tuple(held_out),
        tuple(places),
        tuple(training),
        reference,
        split_fingerprint=fingerprint,
        clusters=tuple(choose_rows(groups, split.rows, most, seed)),
    )
    return measured, _Texts(Compared("data.eval", every, lambda index: _own_place(plan, index)))


def _own_place(plan: RunPlan, index: int) -> str:
    return f"{plan.run_dir} held-out row {index + 1}"


def check_rows(run_dir: Path, plan: RunPlan) -> SplitFacts:
    """The rows that a run held out; a run that held out none, or whose rows are gone, is refused."""
    split = plan.data.held_out
    if split is None:
        mend = "give data.eval=FILE, or train with data.eval=FILE, or with data.eval_share above 0"
        raise UserError.at(f"{run_dir} data.eval", "the run held out no rows to compare on", mend)
    if not Path(split.path).exists():
        what = "the run's prepared rows are not there"
        mend = "evaluate from the folder that it was trained in, or train it there again"
        raise UserError.at(split.path, what, mend)
    return split


def _from_files(
    subject: Subject, settings: EvaluateSettings, seed: int, reference: str | None
) -> tuple[Measured, _Texts]:
    plan, trained = subject.plan, subject.trained
    loaded, train = _load(settings.data, plan, trained)
    rows = [from_json(one.json) for one in loaded]
    shape = next((row.shape for row in rows if row.shape != "text"), "text")
    if plan is not None and plan.data.shape != shape:
        what = f"holds {SAID[shape]}, and {plan.run_dir} was trained on {SAID[plan.data.shape]}"
        raise UserError.at(f"data.eval {loaded[0].file}", what, "give rows of the shape that it was trained on")
    if mixed := [one for one, row in zip(loaded, rows, strict=True) if shape == "chat" and isinstance(row, Text)]:
        what = f"is plain text among conversations ({len(mixed)} rows are)"
        raise UserError.at(mixed[0].where, what, "give rows of one shape")
    places = choose_rows(range(len(rows)), len(rows), settings.evaluate.rows, seed)
    if plan is not None:
        from finetune.data.prepare import read_rows

        training = conversations(read_rows(plan.data.train, POOL), reference)
    else:
        training = conversations((from_json(one.json) for one in train[:POOL]), reference)
    groups = dependent_rows((one.groups for one in loaded), [compared(row) for row in rows])
    measured = Measured(
        shape,
        tuple(rows[place] for place in places),
        tuple(loaded[place].where for place in places),
        tuple(training),
        reference,
        settings.data.eval,
        clusters=tuple(groups[place] for place in places),
    )
    chosen = [loaded[place] for place in places]
    return measured, _Texts(_texts("data.eval", chosen), _texts("data.train", train) if train else None)


def _load(data: MeasuredRows, plan: RunPlan | None, trained: RunPlan | None) -> tuple[list[Loaded], list[Loaded]]:
    """The rows of `data.eval` and those of `data.train`, of the first shape that they can be read as.

    That is the shape that the target was trained on, if it is known, or else another.
    """
    known = trained.data.shape if trained else "text"
    own = LEARNED if known in LEARNED else (known,)
    # any question could be a task, so a task is read only where one is looked for
    others = ("pair", "vote", *(["task"] if data.layout else []))
    order = [own, *(shapes for shapes in (LEARNED, *((one,) for one in others)) if shapes != own)]
    first: UserError | None = None
    for shapes in order:
        try:
            return _loaded(data, shapes, plan)
        except UserError as error:
            first = first or error
            if any(fault.code not in NO_SUCH_ROWS for fault in error.faults):
                raise (first if plan else error) from None
    assert first is not None
    raise first


def _loaded(data: MeasuredRows, shapes: tuple[str, ...], plan: RunPlan | None) -> tuple[list[Loaded], list[Loaded]]:
    """The rows of `data.eval` and those of `data.train`, read as training reads them."""
    from finetune.data.load import check_hub, check_used, load
    from finetune.data.read import find_sources

    found, faults, total = list[list["Loaded"]](), list[Fault](), 0
    used, seen = set[str](), set[str]()
    reading: DataConfig = data.as_data()
    sources = {key: find_sources(given, key) for key, given in _given(data).items()}
    check_hub(reading, [one for several in sources.values() for one in several])
    for key in ("data.eval", "data.train"):
        try:
            found.append(list(load(sources.get(key, []), reading, shapes, used, seen)))
        except UserError as error:
            faults, total = [*faults, *error.faults], total + error.total
    if faults:
        raise UserError(faults, total)
    check_used(data.columns, used)
    _check_groups(data.group_by, seen, plan)
    return found[0], found[1]


def _check_groups(columns: Sequence[str], seen: set[str], plan: RunPlan | None) -> None:
    """Refuse columns to group by that no row has; of those that a run brings it is said where they come from."""
    from finetune.data.load import check_groups

    try:
        check_groups(columns, seen)
    except UserError as error:
        if plan is None or list(columns) != list(plan.config.data.group_by):
            raise
        mend = f"the setting is that of {plan.run_dir}: write data.group_by=[] to evaluate without groups"
        raise UserError([replace(fault, mend=mend) for fault in error.faults], error.total) from None


def _given(data: MeasuredRows) -> dict[str, Any]:
    return {key: given for key, given in (("data.eval", data.eval), ("data.train", data.train)) if given is not None}


def _texts(key: str, rows: Sequence[Loaded]) -> Compared:
    return Compared(key, [compared(from_json(one.json)) for one in rows], lambda index: rows[index].where)


def _check_askable(measured: Measured, subjects: Sequence[Subject], metric: str | None) -> None:
    """Refuse rows that a target cannot be asked, or a metric that says nothing of them."""
    if len(measured.held_out) < 2:
        what = f"{len(measured.held_out)} held-out rows, and a comparison needs at least 2"
        raise UserError.at("data.eval", what, "give more held-out rows, or a larger data.eval_share")
    remote = [subject.given for subject in subjects if subject.endpoint]
    if remote and measured.shape == "text":
        what = "answers only, and rows of plain text are compared by how likely they are"
        raise UserError(Fault(given, what, "leave it out, or give conversations") for given in remote)
    check_metric(metric, measured.chats, measured.shape, subjects[0].trained)
    if remote and metric in BY_LIKELIHOOD:
        what = f"answers only, and evaluate.metric={metric} compares how likely answers are"
        mend = "leave it out" if measured.shape == "vote" else "leave it out, or take a metric of what is answered"
        raise UserError(Fault(given, what, mend) for given in remote)
    if remote and any(row.tools or any("tool_calls" in one for one in row.messages) for row in measured.chats):
        what = "is asked in words, and rows with tools cannot be put to it"
        raise UserError(Fault(given, what, "leave it out, or give rows without tools") for given in remote)


def _apart(measured: Measured, texts: _Texts, subjects: Sequence[Subject], settings: EvaluateSettings) -> Measured:
    """Refuse rows that any of the targets was trained on, or that stand among the examples; or count them."""
    # a run's own held-out rows were compared with its training rows before it was trained
    own = subjects[0].run_dir if measured.given is None else None
    seen = {Path(plan.run_dir).resolve(): plan for one in subjects for plan in _trained_on(one)}
    trained = [_training_texts(plan) for run_dir, plan in seen.items() if own is None or run_dir != own.resolve()]
    trained += [texts.training] if texts.training else []
    words, allowed = settings.data.contamination_words, settings.data.allow_contamination
    leaks = [_leaks(part, texts.held_out, words) for part in trained]
    if not allowed and any(leaks):
        raise UserError(_in_one_line(log) for part in leaks for log in part.values())
    _warn_of_unknown(subjects)
    found = [Allowed(texts.held_out.key, kind, log.total) for part in leaks for kind, log in sorted(part.items())]
    return replace(measured, contamination=tuple(found))


def _trained_on(subject: Subject) -> Iterator[RunPlan]:
    """The runs whose training rows a target has seen: the one that made it, and those that it goes back to."""
    if subject.trained is None:
        return
    yield subject.trained
    for run_dir in trained_before(Path(subject.trained.run_dir)):
        if (run_dir / PLAN_FILE).is_file():
            yield load_plan(run_dir)
        else:
            what = "is gone, and the target goes back to it: nothing shows that it has not seen these rows"
            log.warning(f"{run_dir}: {what}")


def _leaks(train: Compared, held_out: Compared, words: int) -> dict[str, FaultLog]:
    """The held-out rows that stand in training rows too, by how alike they are."""
    logs: dict[str, FaultLog] = defaultdict(FaultLog)
    for overlap in strongest(overlaps(train.texts, held_out.texts, words=words)):
        note_leak(overlap, train, held_out, words, logs[overlap.kind])
    return logs


def _in_one_line(rows: FaultLog) -> Fault:
    """The first of several rows that are wrong alike, with the places of some more."""
    first, *others = rows.faults
    if not others:
        return first
    places = listed([one.where for one in others[:SHOWN_PLACES]])
    more = f", … ({counted(rows.total, 'row')} in all)" if rows.total > 1 + SHOWN_PLACES else ""
    return replace(first, what=f"{first.what}; so are {places}{more}")


def _warn_of_unknown(subjects: Sequence[Subject]) -> None:
    """Say of which models nobody knows what they were trained on; the base of another target stands for none."""
    bases = {one.plan.model.fingerprint for one in subjects if one.plan}
    bases |= {one.facts.fingerprint for one in subjects if one.facts and one.facts.adapter}
    unknown = [
        one.given
        for one in subjects
        if one.facts and not one.made_by and (one.facts.adapter or one.facts.fingerprint not in bases)
    ]
    if unknown:
        what = "no run is known that made it, so nothing shows that it has not seen these rows"
        log.warning(f"{listed(unknown)}: {what}; where there is a run, name its directory, or its output_dir")


def _training_texts(plan: RunPlan) -> Compared:
    """The training rows of a run."""
    check_rows_there(plan)
    return texts_of(plan.data.train, "data.train", f"{plan.run_dir} training row")


def texts_of(split: SplitFacts, key: str, said: str) -> Compared:
    """Prepared rows as they are compared, on the disk: there may be more than fit into memory."""
    from finetune.data.prepare import read_rows
    from finetune.data.shelf import Shelf

    shelf = Shelf()
    for row in read_rows(split):
        shelf.add(compared(row))
    return Compared(key, shelf, lambda index: f"{said} {index + 1}")


def check_rows_there(plan: RunPlan) -> None:
    """Refuse a run whose training rows are gone: nobody knows what it was trained on."""
    if not Path(plan.data.train.path).exists():
        mend = "evaluate from the folder that it was trained in, or train it there again"
        raise UserError.at(plan.data.train.path, "the run's prepared rows are not there", mend)
