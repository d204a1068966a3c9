"""The adapter at a part of its strength, without training again: between the base (0) and the tuned model (1)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune.config import EvaluateConfig
from finetune.errors import UserError
from finetune.evaluate.along import Trail
from finetune.evaluate.climb import Score, Spread
from finetune.evaluate.contest import Contest
from finetune.evaluate.forgetting import distances, divergence_interval, hold_logits, portions
from finetune.evaluate.kept import Kept, key_of
from finetune.evaluate.local import LocalEngine
from finetune.evaluate.neutral import Neutral
from finetune.evaluate.questions import Speech
from finetune.model_files.adapters import CONFIG

if TYPE_CHECKING:
    import torch


@contextmanager
def at_strength(model: Any, strength: float) -> Iterator[Any]:
    """Scale what the active adapter adds to the base's weights; all is as before when this ends.

    Every trained weight moves along the straight line from the base's to the tuned one: of LoRA by its scale, of DoRA
    by what its layer adds to the output, of new tokens and modules trained whole by their weights themselves.
    """
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
    from peft.utils.other import ModulesToSaveWrapper

    name = model.active_adapter
    with ExitStack() as undo:
        for module in list(model.modules()):
            if isinstance(module, LoraLayer) and name in module.lora_magnitude_vector:
                added = module.lora_magnitude_vector[name]
                undo.callback(added.register_forward_hook(partial(_scaled, strength)).remove)
            elif isinstance(module, LoraLayer) and name in module.scaling:
                undo.callback(module.scaling.__setitem__, name, module.scaling[name])
                module.scaling[name] *= strength
            elif isinstance(module, TrainableTokensLayer) and not module.tied_adapter:
                before, after = module.trainable_tokens_original[name], module.trainable_tokens_delta[name]
                _move(after, before, strength, undo)
            elif isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save:
                before = dict(module.original_module.named_parameters())
                for key, after in module.modules_to_save[name].named_parameters():
                    _move(after, before[key], strength, undo)
        yield model


def _scaled(strength: float, module: Any, given: Any, added: Any) -> Any:
    """What a DoRA layer adds; that of an embedding is a factor of the base's output and something more."""
    if isinstance(added, tuple):
        factor, more = added
        return 1 + strength * (factor - 1), strength * more
    return strength * added


def _move(after: torch.Tensor, before: torch.Tensor, strength: float, undo: ExitStack) -> None:
    whole = after.data
    undo.callback(setattr, after, "data", whole)
    after.data = before.data.to(whole).lerp(whole, strength)


@dataclass(frozen=True)
class Sweep:
    """A tuned model, what scores it, and the prompts on which its distance from the base is measured."""

    contest: Contest
    settings: EvaluateConfig
    score: Score
    spread: Spread  # the interval of a mean of such scores, as the rungs have it
    prompts: Sequence[Neutral]
    rows: Sequence[Mapping[str, Any]]  # of the prompts, in their order, as they were measured at full strength
    seed: int
    answers: Path  # where what was measured is kept

    def points(self) -> list[dict[str, Any]]:
        """Score and distance at every strength; what is kept is not measured again."""
        strengths = sorted(self.settings.strengths)
        kls = self._distances(strengths)
        return [self._point(strength, self._scores(strength), kls[strength]) for strength in strengths]

    def _point(self, strength: float, scores: Sequence[float], kls: Sequence[float]) -> dict[str, Any]:
        point: dict[str, Any] = {"strength": strength}
        point |= {"score": fmean(scores), "score_interval": self.spread(scores)}
        point |= {"kl": fmean(kls), "kl_interval": divergence_interval(kls, self.seed)}
        return {**point, "rows": len(scores), "prompts": len(kls)}

    def _identity(self, strength: float) -> str:
        """What decides the answers: at both ends those of models that are known already."""
        assert self.contest.base
        ends = {0.0: self.contest.base.identity, 1.0: self.contest.judged.identity}
        return ends.get(strength) or key_of("strength", ends[0.0], ends[1.0], strength)

    def _scores(self, strength: float) -> Sequence[float]:
        kept, name = Kept.open(self.answers, self._identity(strength)), f"strength {strength:g}"
        engine = LocalEngine(name, self._speech, partial(self._opened, strength), kept, self.settings.batch_size)
        try:
            return self.score(engine)
        finally:
            engine.close()

    def _distances(self, strengths: Sequence[float]) -> dict[float, list[float]]:
        """The divergence from the base on each prompt; at both ends it is known."""
        known = {0.0: [0.0] * len(self.prompts), 1.0: [float(row["kl"]) for row in self.rows]}
        stores = {
            one: Kept.open(self.answers, key_of("kl", self._identity(one))) for one in strengths if one not in known
        }
        keys = [key_of(one.ids, self.settings.neutral_tokens) for one in self.prompts]
        left = [at for at, key in enumerate(keys) if any(key not in store.found for store in stores.values())]
        for part in portions(left, self.settings.neutral_tokens, len(self._speech.tokenizer)):
            self._measure(part, stores, keys)
        return known | {one: [store.found[key]["kl"] for key in keys] for one, store in stores.items()}

    def _measure(self, places: Sequence[int], stores: Mapping[float, Kept], keys: Sequence[str]) -> None:
        """The base's logits once, and those of every strength beside them."""
        assert self.contest.models
        trails = [Trail(self.prompts[at].ids, tuple(self.rows[at]["base"]["ids"])) for at in places]
        held: dict[int, Any] = {}
        with self.contest.models.base() as model:
            hold_logits(model, self._speech, trails, held, self.settings.batch_size)
        for strength, store in stores.items():
            with self._opened(strength) as model:
                found = distances(model, self._speech, trails, held, self.settings.batch_size)
            store.add({keys[at]: {"kl": one.kl} for at, one in zip(places, found, strict=True)})

    @contextmanager
    def _opened(self, strength: float) -> Iterator[Any]:
        assert self.contest.models
        with self.contest.models.tuned() as model, at_strength(model, strength):
            yield model

    @property
    def _speech(self) -> Speech:
        assert self.contest.speech
        return self.contest.speech


def check_strengths(contest: Contest, strengths: Sequence[float]) -> None:
    """Refuse what has no strength to be scaled."""
    key, mend = "evaluate.strengths", "leave it out"
    if not strengths:
        return
    if contest.adapter is None:
        what = "only an adapter has a strength; here every weight was trained" if contest.base else "nothing was tuned"
        raise UserError.at(key, what, mend)
    bias = json.loads((contest.adapter / CONFIG).read_text(encoding="utf-8")).get("bias", "none")
    if bias != "none":
        raise UserError.at(key, f"the adapter trained biases of the base (bias={bias}), which cannot be scaled", mend)
