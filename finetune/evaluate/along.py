"""What a model would have said at each token of an answer that is given: the whole distribution, not one word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.evaluate.generate import IGNORED, evaluating, logit_batches
from finetune.evaluate.prefix import last_logits

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Trail:
    """A prompt, and an answer to it, as tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Both, one after the other."""
        return (*self.prompt, *self.answer)

    @property
    def labels(self) -> tuple[int, ...]:
        """The answer where it stands, and nothing for the prompt."""
        return (*[IGNORED] * len(self.prompt), *self.answer)


@dataclass(frozen=True)
class Distance:
    """How far a model is from its base along one of the base's answers: means over the tokens, in nats."""

    kl: float  # of the model's distribution from the base's
    base_nll: float  # of the answer, under the base
    nll: float  # of the answer, under the model


def logits_along(
    model: Any, trails: Sequence[Trail], take: Callable[[int, torch.Tensor], None], *, batch_size: int, pad_id: int
) -> None:
    """Hand over, trail by trail, the logits at the tokens of its answer: on the device, and only for the moment."""
    import torch

    sequences = [(one.ids, one.labels) for one in trails]
    order = sorted(range(len(trails)), key=lambda index: len(trails[index].ids), reverse=True)
    with evaluating(model) as inner, torch.inference_mode():
        for batch in logit_batches(sequences, order, batch_size, inner.config.get_text_config().vocab_size):
            for index, rows in zip(batch, _forward(inner, [trails[at] for at in batch], pad_id), strict=True):
                take(index, rows)


def distance(base: torch.Tensor, other: torch.Tensor, answer: Sequence[int]) -> Distance:
    """Compare two models' logits along one answer."""
    import torch

    first, second = (torch.log_softmax(one.float(), dim=-1) for one in (base, other))
    kl = torch.nn.functional.kl_div(second, first, log_target=True, reduction="none").double().sum(dim=-1)
    taken = torch.tensor(answer, device=base.device).unsqueeze(1)
    nlls = [-float(one.gather(1, taken).double().mean()) for one in (first, second)]
    # no less than 0 but for rounding
    return Distance(max(0.0, float(kl.mean())), *nlls)


def _forward(model: Any, trails: Sequence[Trail], pad_id: int) -> list[torch.Tensor]:
    """One forward pass, padded on the right; logits are made only from the first answer on."""
    import torch

    width, first = max(len(one.ids) for one in trails), min(len(one.prompt) for one in trails) - 1
    ids = torch.tensor([[*one.ids, *[pad_id] * (width - len(one.ids))] for one in trails], device=model.device)
    mask = torch.tensor([[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in trails], device=model.device)
    kept = model(input_ids=ids, attention_mask=mask, use_cache=False, **last_logits(model, width - first)).logits
    kept = kept[:, first - width :]
    # a token is predicted by the position before it
    starts = [len(one.prompt) - 1 - first for one in trails]
    return [
        kept[at, start : start + len(one.answer)] for at, (start, one) in enumerate(zip(starts, trails, strict=True))
    ]
