"""Numbers and tables of runs as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.evaluate.table import in_percent, metric_name, shown_score

NOTHING = "–"


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """The rows as lines whose cells stand under each other."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [indent + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def shown_model(name: str) -> str:
    """A model's name; of a folder its last part."""
    return Path(name).name if name.startswith(("/", "./", "../", "~")) else name


def shown_loss(loss: float | None) -> str:
    """A loss, if there is one."""
    return NOTHING if loss is None else f"{loss:.3f}"


def shown_rows(rows: int | None) -> str:
    """How many rows; a stream's are not counted."""
    return "a stream" if rows is None else f"{rows:,}"


def shown_metric(metric: str) -> str:
    """What a metric is called."""
    return metric_name(metric)


def shown_interval(metric: str, interval: tuple[float, float]) -> str:
    """An interval; one percent sign is enough for both ends."""
    return " – ".join((shown_score(metric, interval[0]).removesuffix(" %"), shown_score(metric, interval[1])))


def shown_difference(metric: str, value: float) -> str:
    """A difference of two scores, with its sign."""
    return f"{100 * value:+.1f}" if in_percent(metric) else f"{value:+.3f}"


def shown_size(size: int) -> str:
    """Bytes as people write them."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:.1f} {unit}"
    return f"{size} bytes"
