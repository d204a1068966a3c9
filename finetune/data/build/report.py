"""How various the rows are: the same said again teaches nothing."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune.data.build.candidates import Candidate
from finetune.data.likeness.words import count_words, normalise
from finetune.errors import counted

SAMPLE = 1000  # rows whose nearest neighbour is looked for
SHINGLE = 3  # words


def diversity(rows: Sequence[Candidate], seed: int) -> dict[str, Any]:
    """Distinct n-grams, lengths, likeness of nearest neighbours, and shares of the sources."""
    questions, answers = [row.question for row in rows], [row.answer for row in rows]
    return {
        "distinct": {"question": _distinct(questions), "answer": _distinct(answers)},
        "words": {"question": _spread(questions), "answer": _spread(answers)},
        "nearest": _nearest([row.text for row in rows], seed),
        "sources": _shares([row.item.group for row in rows]),
    }


def _distinct(texts: Sequence[str]) -> dict[str, float]:
    """Different n-grams over all n-grams, for words alone, in pairs and in threes."""
    words = [normalise(text).split() for text in texts]
    shares = {}
    for size in (1, 2, 3):
        grams = [tuple(line[at : at + size]) for line in words for at in range(len(line) - size + 1)]
        shares[str(size)] = round(len(set(grams)) / len(grams), 4) if grams else 0.0
    return shares


def _spread(texts: Sequence[str]) -> dict[str, int]:
    counts = sorted(map(count_words, texts))
    if not counts:
        return {}
    places = {"shortest": 0.0, "tenth": 0.1, "median": 0.5, "ninetieth": 0.9, "longest": 1.0}
    return {name: counts[round(share * (len(counts) - 1))] for name, share in places.items()}


def _nearest(texts: Sequence[str], seed: int) -> dict[str, Any]:
    """How like each row is to the one most like it: the share of three-word shingles that both have."""
    chosen = sorted(random.Random(seed).sample(range(len(texts)), min(SAMPLE, len(texts))))
    shingles = [_shingles(texts[index]) for index in chosen]
    holders: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(shingles):
        for shingle in found:
            holders.setdefault(shingle, []).append(index)
    likeness = []
    for index, found in enumerate(shingles):
        common = Counter(other for shingle in found for other in holders[shingle] if other != index)
        best = max(
            (count / (len(found) + len(shingles[other]) - count) for other, count in common.items()), default=0.0
        )
        likeness.append(best)
    likeness.sort()
    if not likeness:
        return {"rows": 0}
    mean, high = sum(likeness) / len(likeness), likeness[round(0.9 * (len(likeness) - 1))]
    return {"rows": len(likeness), "mean": round(mean, 4), "ninetieth": round(high, 4), "most": round(likeness[-1], 4)}


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    size = min(SHINGLE, len(words))
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)} if words else set()


def _shares(groups: Sequence[str]) -> dict[str, Any]:
    """How many sources the rows come from, and how evenly: `effective` is as many equal ones as would be as even."""
    counts = Counter(groups)
    total = counts.total()
    if not total:
        return {"count": 0}
    entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    name, most = min(counts.items(), key=lambda item: (-item[1], item[0]))
    effective = round(math.exp(entropy), 1)
    return {"count": len(counts), "effective": effective, "largest": name, "largest_share": round(most / total, 4)}


def table(result: dict[str, Any]) -> str:
    """The outcome as a person reads it."""
    counts, found = result["counts"], result["diversity"]
    examples, answers = counted(counts["examples"], "example"), counted(counts["answered"], "answer")
    lines = [f"{counted(counts['rows'], 'row')} from {examples} in {answers}"]
    rejected = {gate: count for gate, count in counts["rejected"].items() if count}
    lines += [f"  rejected {gate:<12} {count:>8,}" for gate, count in rejected.items()]
    if counts["surplus"]:
        lines.append(f"  more than wanted      {counts['surplus']:>8,}")
    if counts["rows"]:
        distinct, words, nearest, sources = (found[name] for name in ("distinct", "words", "nearest", "sources"))
        for part in ("question", "answer"):
            shares = " / ".join(f"{distinct[part][size]:.2f}" for size in ("1", "2", "3"))
            spread = f"{words[part]['tenth']}–{words[part]['median']}–{words[part]['ninetieth']}"
            lines.append(f"  {part + 's':<10} distinct 1/2/3-grams {shares}, words {spread} (tenth, median, ninetieth)")
        lines.append(f"  nearest neighbour: likeness {nearest['mean']:.2f} in the mean, {nearest['most']:.2f} at most")
        share = f"the largest has {sources['largest_share']:.0%}"
        lines.append(
            f"  {counted(sources['count'], 'source')}, as even as {sources['effective']:,} equal ones; {share}"
        )
    return "\n".join([*lines, f"  {spent(result['spent'])}"])


def spent(used: dict[str, Any]) -> str:
    """What asking has cost."""
    text = f"spent {used['tokens_in']:,} + {used['tokens_out']:,} tokens in {counted(used['requests'], 'answer')}"
    if used["cost"] is not None:
        text += f", {used['cost']:.4f} by the prices given"
    if used["unknown_tokens"]:
        text += f"; {used['unknown_tokens']:,} more at most, in requests that were cut off"
    return text
