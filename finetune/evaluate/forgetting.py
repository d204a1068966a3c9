"""What tuning changed on prompts that have nothing to do with the task: base against tuned, prompt by prompt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from finetune.config import EvaluateConfig
from finetune.data.examine.answers import OPENING, REFUSALS
from finetune.data.examine.languages import language
from finetune.errors import RunFailed, UserError, counted
from finetune.evaluate import stats
from finetune.evaluate.along import Distance, Trail, distance, logits_along
from finetune.evaluate.generate import Answer, generate
from finetune.evaluate.local import Models
from finetune.evaluate.neutral import REFUSE, Neutral
from finetune.evaluate.questions import Speech
from finetune.log import log

UNSURE = math.log(2)  # nats a token: a base that gives its own words less than an even chance knows no answer
SHOWN = 8  # prompts whose answers changed most, for the report
HELD = 2**30  # numbers of the base's logits that are kept until the tuned model has its turn

T = TypeVar("T")
Row = Mapping[str, Any]  # a prompt with both answers, as neutral.jsonl has it


def compare(
    models: Models, speech: Speech, prompts: Sequence[Neutral], *, tokens: int, batch_size: int
) -> list[dict[str, Any]]:
    """Both models' answers to each prompt, and how far the tuned one is from the base along the base's."""
    began, held = time.monotonic(), dict[int, Any]()
    with models.base() as model:
        before = _answers(model, speech, prompts, tokens, batch_size)
        trails = [Trail(one.ids, answer.ids) for one, answer in zip(prompts, before, strict=True)]
        hold_logits(model, speech, trails, held, batch_size)
    del model  # or two models would be in memory while the next one is loaded
    with models.tuned() as model:
        after = _answers(model, speech, prompts, tokens, batch_size)
        apart = distances(model, speech, trails, held, batch_size)
    log.info(f"{counted(len(prompts), 'neutral prompt')} in {time.monotonic() - began:.1f} s")
    return [_measured(*parts) for parts in zip(before, after, apart, strict=True)]


def portions(prompts: Sequence[T], tokens: int, vocabulary: int) -> Iterator[Sequence[T]]:
    """So many prompts at once that the logits of their answers fit into memory; with few prompts, all."""
    size = max(1, HELD // (tokens * vocabulary))
    return (prompts[start : start + size] for start in range(0, len(prompts), size))


def row_of(prompt: Neutral, measured: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt with what was measured on it."""
    return {"kind": prompt.kind, "prompt": prompt.text, "language": prompt.language, **measured}


def hold_logits(model: Any, speech: Speech, trails: Sequence[Trail], held: dict[int, Any], batch_size: int) -> None:
    """Keep a model's logits along each trail in the computer's memory, in the model's own number format."""

    def take(index: int, rows: Any) -> None:
        held[index] = rows.cpu()

    logits_along(model, trails, take, batch_size=batch_size, pad_id=speech.tokenizer.pad_token_id)


def distances(
    model: Any, speech: Speech, trails: Sequence[Trail], held: Mapping[int, Any], batch_size: int
) -> list[Distance]:
    """How far a model is, along each trail, from the one whose logits are held."""
    found: dict[int, Distance] = {}

    def take(index: int, rows: Any) -> None:
        found[index] = distance(held[index].to(rows.device), rows, trails[index].answer)

    logits_along(model, trails, take, batch_size=batch_size, pad_id=speech.tokenizer.pad_token_id)
    if not all(math.isfinite(one.kl) and math.isfinite(one.nll) for one in found.values()):
        raise RunFailed("the tuned model's probabilities on neutral prompts are no numbers; its weights are broken")
    return [found[index] for index in range(len(trails))]


def summary(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """What the rows say together: every measure with its interval, and the divergence of each kind of prompt."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    base_nll = fmean(row["base"]["nll"] for row in rows)
    return {
        "prompts": len(rows),
        "base_nll": base_nll,
        "base_unsure": base_nll > UNSURE,
        "measures": _measures(rows, seed),
        "kinds": [_kind(kind, [row["kl"] for row in rows if row["kind"] == kind]) for kind in kinds],
        "most_changed": [_shown(row) for row in sorted(rows, key=lambda row: -float(row["kl"]))[:SHOWN]],
    }


def exceeded(found: Mapping[str, Any], settings: EvaluateConfig) -> list[str]:
    """The limits that are exceeded by a whole interval, so not by chance; a line each."""
    of = {one["name"]: one for one in found["measures"]}
    lines = []
    if (most := settings.max_kl) is not None and of["kl"]["interval"][0] > most:
        lines.append(_over("evaluate.max_kl", most, "nats a token from the base", of["kl"]))
    if (factor := settings.max_length_change) is not None:
        low, high = of["length"]["interval"]
        if low > factor or high < 1 / factor:
            lines.append(_over("evaluate.max_length_change", factor, "times the base's typical length", of["length"]))
    if (rise := settings.max_refusal_rise) is not None and of["refused"]["interval"][0] > rise:
        lines.append(
            _over("evaluate.max_refusal_rise", rise, "of the ordinary prompts refused in addition", of["refused"])
        )
    if (fall := settings.max_refusal_fall) is not None and of["refused_unsafe"]["interval"][1] < -fall:
        what = "is the change of the share refused of prompts that should be"
        lines.append(_over("evaluate.max_refusal_fall", fall, what, of["refused_unsafe"]))
    return lines


def check_limits(prompts: Sequence[Neutral], settings: EvaluateConfig) -> None:
    """Refuse a limit on what the prompts cannot show."""
    unsafe = sum(prompt.kind == REFUSE for prompt in prompts)
    for key, most, count, kind in (
        ("max_refusal_fall", settings.max_refusal_fall, unsafe, f"of kind {REFUSE}"),
        ("max_refusal_rise", settings.max_refusal_rise, len(prompts) - unsafe, f"of another kind than {REFUSE}"),
    ):
        if most is not None and count < 2:
            what = f"needs at least 2 neutral prompts {kind}, and there are {count}"
            raise UserError.at(f"evaluate.{key}", what, "add some to the file, or leave the limit out")


def _answers(model: Any, speech: Speech, group: Sequence[Neutral], tokens: int, batch_size: int) -> list[Answer]:
    return generate(
        model,
        speech.tokenizer,
        [list(prompt.ids) for prompt in group],
        stop_ids=speech.encoder.stop_ids,
        max_new_tokens=tokens,
        batch_size=batch_size,
        context=speech.context,
    )


def _measured(before: Answer, after: Answer, apart: Distance) -> dict[str, Any]:
    def said(answer: Answer, nll: float) -> dict[str, Any]:
        return {"text": answer.text, "tokens": answer.tokens, "stopped": answer.stopped, "nll": nll}

    base = {**said(before, apart.base_nll), "ids": list(before.ids)}
    return {"kl": apart.kl, "base": base, "tuned": said(after, apart.nll)}


def _measures(rows: Sequence[Row], seed: int) -> list[dict[str, Any]]:
    told = [row for row in rows if row["language"] and all(map(language, _texts(row)))]
    unsafe = [row for row in rows if row["kind"] == REFUSE]
    ordinary = [row for row in rows if row["kind"] != REFUSE]
    found = [
        _alone("kl", [row["kl"] for row in rows], seed),
        _paired("nll", rows, lambda row, said: said["nll"], seed),
        _length(rows, seed),
        _paired("stopped", rows, lambda row, said: said["stopped"], seed),
        _paired("language", told, lambda row, said: language(said["text"]) == row["language"], seed),
        _paired("refused", ordinary, lambda row, said: refuses(said["text"]), seed),
        _paired("refused_unsafe", unsafe, lambda row, said: refuses(said["text"]), seed),
        _alone("unchanged", [float(before == after) for before, after in map(_texts, rows)], seed),
    ]
    return [one for one in found if one is not None]


def _alone(name: str, values: Sequence[float], seed: int) -> dict[str, Any]:
    """A measure that is a comparison by itself."""
    interval = divergence_interval(values, seed) if name == "kl" else list(stats.mean_interval(values, seed))
    return {"name": name, "base": None, "tuned": None, "change": fmean(values), "interval": interval, "n": len(values)}


def divergence_interval(kls: Sequence[float], seed: int) -> list[float]:
    """The interval of a mean divergence; what is 0 on every prompt is no rare event, but the base itself."""
    return list(stats.mean_interval(kls, seed)) if any(kls) else [0.0, 0.0]


def _paired(name: str, rows: Sequence[Row], of: Callable[[Row, Row], float], seed: int) -> dict[str, Any] | None:
    """A measure of each side's answers; none where fewer than two prompts tell."""
    if len(rows) < 2:
        return None
    base, tuned = ([float(of(row, row[side])) for row in rows] for side in ("base", "tuned"))
    found = stats.paired_difference(tuned, base, seed=seed)
    means = {"base": fmean(base), "tuned": fmean(tuned)}
    return {"name": name, **means, "change": found.difference, "interval": list(found.interval), "n": len(rows)}


def _length(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Tokens of an answer: geometric means over the prompts, and the factor between them."""
    # with the token that ends it, since an answer may be empty
    base, tuned = ([math.log(row[side]["tokens"] + 1) for row in rows] for side in ("base", "tuned"))
    found = stats.paired_difference(tuned, base, seed=seed)
    interval = [math.exp(bound) for bound in found.interval]
    means = {"base": math.exp(fmean(base)), "tuned": math.exp(fmean(tuned))}
    return {"name": "length", **means, "change": math.exp(found.difference), "interval": interval, "n": len(rows)}


def refuses(text: str) -> bool:
    """Whether an answer begins like a refusal: a list of English phrases, so a rough guess."""
    opening = text[:OPENING].lower().replace("’", "'")
    return any(phrase in opening for phrase in REFUSALS)


def _texts(row: Row) -> tuple[str, str]:
    return row["base"]["text"], row["tuned"]["text"]


def _kind(kind: str, kls: Sequence[float]) -> dict[str, Any]:
    return {"kind": kind, "prompts": len(kls), "kl": fmean(kls)}


def _shown(row: Row) -> dict[str, Any]:
    said = {side: row[side]["text"] for side in ("base", "tuned")}
    return {"kind": row["kind"], "prompt": row["prompt"], "kl": row["kl"], **said}


def _over(key: str, limit: float, what: str, measure: Mapping[str, Any]) -> str:
    low, high = measure["interval"]
    return f"{key}={limit:g}: {measure['change']:.3g} {what} (95 % interval {low:.3g} to {high:.3g})"
