"""The decision: a situation → advice, by three tables. Pure: the same situation gives the same advice."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.choose.needs import said_missing, said_no_index, stage
from finetune.choose.paths import Path, path_of
from finetune.choose.situation import (
    BEHAVIOUR,
    CHAT,
    COUNTED,
    FEW_SHOT,
    GUESSED,
    IMAGES,
    KINDS,
    NEVER,
    PROMPT,
    RETRIEVAL,
    ROWS,
    SAMPLED,
    TUNING,
    Advice,
    Evidence,
    Measured,
    Situation,
    Stage,
)
from finetune.choose.stops import MEASURED, Stop, stop_of
from finetune.choose.tunings import SHARDED, Tuning, budget, epochs, tuning_of
from finetune.errors import counted
from finetune.plan.memory import shown_memory

TUNE = "tune"  # the name of no stop


def decide(situation: Situation) -> Advice:
    """What to do now, what comes after it, and why."""
    stop = stop_of(situation)
    path = path_of(situation) if stop is None or stop.tunes_later else None
    stages = tuple(stage(name, situation) for name in path.stages) if path else ()
    tuning = tuning_of(situation) if path else None
    fit = tuning.fit(situation) if tuning else None
    rung = _rung(stop, situation)
    return Advice(
        stop=stop.name if stop else TUNE,
        rung=rung,
        path=path.name if path else "",
        stages=stages,
        tuning="lora" if fit == SHARDED else fit,
        tuning_rule=tuning.name if tuning else "",
        settings=_settings(situation, tuning, fit),
        sentence=_sentence(stop, path, tuning, fit),
        reasons=tuple(_reasons(situation, stop, path, stages, tuning)),
        would_change=tuple(_would_change(situation, stop, path)),
        missing=(
            *(said_no_index() if rung == RETRIEVAL or (path and path.name == "reading") else ()),
            *(said_missing(one.method) for one in stages if not one.there),
        ),
    )


def _rung(stop: Stop | None, situation: Situation) -> str:
    if stop is None:
        return TUNING
    if stop.rung == MEASURED and situation.evidence is not None:
        return FEW_SHOT if situation.evidence.best.examples else PROMPT
    return stop.rung


def _settings(situation: Situation, tuning: Tuning | None, fit: str | None) -> tuple[str, ...]:
    if tuning is None or fit is None:
        return ()
    found = situation.base.fit(fit) if situation.base else None
    return (*(found.settings if found else ()), *tuning.settings, *epochs(situation))


def _sentence(stop: Stop | None, path: Path | None, tuning: Tuning | None, fit: str | None) -> str:
    if stop is not None:
        after = "Then" if stop.rung == ROWS else "If that falls short"
        return f"{stop.says} {after}: {path.says}." if path else stop.says
    assert path is not None and tuning is not None
    if fit is None:
        return f"Tuning is worth it ({path.says}), but not with this base here."
    adapter = (
        "an adapter for each variant" if tuning.name == "variants" else f"tuning={'lora' if fit == SHARDED else fit}"
    )
    return f"Tune: {path.says}, with {adapter}."


def _reasons(
    situation: Situation, stop: Stop | None, path: Path | None, stages: tuple[Stage, ...], tuning: Tuning | None
) -> Iterator[str]:
    if situation.evidence is not None:
        yield said_evidence(situation.evidence, situation.target)
    if stop is not None:
        yield from (_with_figures(why, situation) for why in stop.why)
    elif path is not None:
        if situation.evidence is not None:
            short = (
                "{score}, and {target} is wanted" if situation.target is not None else "{score}: there is room above"
            )
            yield _with_figures(f"no cheap rung is enough: {{rung}} reaches {short}", situation)
        yield from path.why
    yield from _about_rows(situation, stages)
    if tuning is not None and stop is None:
        yield tuning.why
        yield from _about_base(situation)


def _with_figures(text: str, situation: Situation) -> str:
    """What is said of a rung, with what was measured of the best one."""
    evidence, target = situation.evidence, situation.target
    if evidence is None:
        return text
    best = evidence.best
    low, high = (f"{end:.1%}" for end in best.interval)
    capped = evidence.held_out > evidence.rows
    return text.format(
        rung=f"the best rung, {said_rung(best)},",
        score=f"{best.score:.1%}",
        low=low,
        high=high,
        target="" if target is None else f"{target:.0%}",
        more="a higher evaluate.rows" if capped else "a larger data.eval_share, or more rows in data.eval",
    )


def _about_rows(situation: Situation, stages: tuple[Stage, ...]) -> Iterator[str]:
    for rows in situation.rows:
        about = "" if rows.exact else "about "
        named = f" in {rows.given}" if rows.given else ""
        yield f"there are {about}{rows.count:,} {KINDS[rows.kind]}{named}"
        if rows.refused:
            yield f"{rows.refused:,} of the rows that were looked at would be refused: `finetune data check` names them"
    yield from _about_tokens(situation)
    for one in stages:
        if one.missing:
            yield f"{one.method} wants at least {one.least:,} {one.unit}: {one.missing:,} are missing"
        elif one.have < one.good:
            yield f"{one.method} has {one.have:,} {one.unit}; from about {one.good:,} on gains are common"


def _about_tokens(situation: Situation) -> Iterator[str]:
    """What an epoch reads, and how that is known."""
    tokens = situation.tokens
    if not tokens.total:
        return
    how = {
        COUNTED: "as `finetune plan` counts them",
        SAMPLED: "by the first rows; the plan counts them all",
        GUESSED: "guessed from their characters",
    }[tokens.how]
    about = "" if tokens.how == COUNTED else "about "
    yield f"an epoch reads {about}{counted(tokens.total, 'token')}, the longest row {about}{tokens.longest:,} ({how})"


def _about_base(situation: Situation) -> Iterator[str]:
    base = situation.base
    if base is None:
        return
    if base.fits:
        needed = ", ".join(f"{fit.tuning} {shown_memory(fit.gigabytes * 2**30)}" for fit in base.fits)
        yield f"memory that {base.name} needs, as the plan estimates it ({base.said}): {needed}"
    if base.hours is not None and base.hours >= 1:
        over = (
            f", more than choose.hours={situation.hours:g}"
            if base.hours > budget(situation) and situation.hours
            else ""
        )
        yield f"three epochs take some {base.hours:,.0f} hours there, very roughly{over}"


def _would_change(situation: Situation, stop: Stop | None, path: Path | None) -> Iterator[str]:
    if stop is not None:
        yield _with_figures(stop.unless, situation)
    elif path is not None:
        yield path.unless
        if situation.gap == BEHAVIOUR and situation.changes == NEVER:
            yield "what is asked for changes every day (choose.changes=daily): then it belongs in the prompt"
        if situation.evidence is None:
            shown = ": --measure shows it" if situation.all_of(CHAT) else ""
            yield f"a prompt or a few examples turn out to be good enough{shown}"
    if situation.images and situation.have(IMAGES) == 0:
        yield "rows with images are shown (data.train=FILE): their number decides"


def said_evidence(evidence: Evidence, target: float | None) -> str:
    """What was measured, in a line."""
    said = ", ".join(f"{said_rung(one)} {_percent(one)}" for one in evidence.rungs)
    wanted = f"; the target is {target:.0%}" if target is not None else ""
    return f"measured on {evidence.rows} held-out rows, {evidence.metric}: {said}{wanted}"


def said_rung(measured: Measured) -> str:
    """What a rung is called."""
    if measured.examples:
        return f"with {measured.examples} example{'s' * (measured.examples > 1)} in the prompt"
    return "the base alone" if measured.rung == "base" else "with the best prompt"


def _percent(measured: Measured) -> str:
    low, high = measured.interval
    return f"{measured.score:.1%} ({low:.1%} to {high:.1%})"
