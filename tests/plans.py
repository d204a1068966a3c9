"""Plans made of invented facts."""

from __future__ import annotations

from finetune.compose import Composed, compose
from finetune.data.prepare import PreparedData, SplitFacts
from finetune.machine import Machine
from finetune.model_files import ModelFacts
from finetune.plan import RunPlan, make_plan
from finetune.plan.facts import Facts

CPU = Machine("cpu", "a processor", 1, 16 * 2**30, False, 2, {"torch": "2.13.0"})
GPU = Machine("cuda", "NVIDIA H200", 1, 139 * 2**30, True, 16, {"torch": "2.13.0"})
OLD_GPU = Machine("cuda", "Tesla T4", 1, 15 * 2**30, False, 16, {"torch": "2.13.0"})
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model(parameters: int = 8_000_000_000, width: int = 4096) -> ModelFacts:
    shapes = {f"model.layers.{layer}.x.{name}": (width, width) for layer in range(32) for name in LAYERS}
    return ModelFacts(
        "some/model", "/m", None, "llama", "LlamaForCausalLM", width, 32, 128_000, 8192, parameters, "bf16",
        False, shapes, "f" * 64,
    )  # fmt: skip


def rows(train: int = 1000, held_out: int | None = 100, shape: str = "chat") -> PreparedData:
    split = SplitFacts("/rows/train", train, train * 90, train * 40, 400)
    other = SplitFacts("/rows/held_out", held_out, held_out * 90, held_out * 40, 300) if held_out else None
    origin = "split" if held_out else "none"
    return PreparedData("/rows", shape, split, other, origin, "a" * 64, "b" * 64 if held_out else None)


def composed(*overrides: str) -> Composed:
    return compose(["model.name=some/model", "data.train=rows.jsonl", *overrides])


def plan(
    *overrides: str,
    machine: Machine = CPU,
    data: PreparedData | None = None,
    base: ModelFacts | None = None,
    flash_attention: bool = False,
) -> RunPlan:
    return make_plan(composed(*overrides), Facts(base or model(), data or rows(), machine, flash_attention))
