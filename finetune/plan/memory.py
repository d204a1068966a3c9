"""How much memory of one device a run needs, estimated from the model's files. Pure, torch-free.

Each term is counted in bytes:

    weights      every stored number in the format that it is held in. A 4-bit one takes half a byte, and each
                 64 share a scale of 4 bytes (1 byte and a little with double quantization). Full tuning in 16
                 bits holds masters in fp32, and beside them the copies that autocast computes with
    adapter      the trained numbers that are not part of the base
    gradients    one for each trained number, in its format; ddp copies them into buckets
    optimizer    Adam: two numbers in the format of the trained one, or two bytes in its 8-bit version;
                 Adafactor: one for each row and each column of a matrix
    activations  what the backward pass needs: for each token and layer the inputs and outputs of the linear
                 layers and what the norms keep in fp32; with checkpointing one input a layer and everything
                 of one layer. The loss keeps no logits, but works on a tile of them
    frozen       models that are only read, in the run's format, with one layer's activations and a tile of logits;
                 with a reference the copy of what training starts from: of an adapter one more adapter, of a model
                 one more in fp32, as it is trained
    runtime      the device's own context and the gaps between allocations

It is an estimate: made for Llama-like models, less sure for mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config import LoraTuning, QloraTuning, TuningConfig
from finetune.model_files import ModelFacts
from finetune.model_files.scoring import SCORE

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
STATE_BYTES = {"adamw_8bit": 2.1, "paged_adamw_8bit": 2.1, "adafactor": 0.1}
QUANTIZATION_BLOCK = 64  # weights that share one scale in bitsandbytes
LOGITS_TILE = (4096, 32768)  # most tokens and words that TRL's loss multiplies at a time
RUNTIME = 700 * 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one device needs, by what they hold."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    frozen: int
    runtime: int

    @property
    def total(self) -> int:
        trained = self.adapter + self.gradients + self.optimizer + self.activations
        return self.weights + trained + self.frozen + self.runtime


def shown_memory(size: float) -> str:
    """Bytes as the makers of devices count them."""
    return f"{size / 2**30:.2f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def estimate(
    facts: ModelFacts,
    *,
    tuning: TuningConfig,
    trainable: int,
    precision: str,
    micro_batch: int,
    longest: int,
    gradient_checkpointing: bool,
    optimizer: str,
    parallel: str = "ddp",
    processes: int = 1,
    offload: bool = False,
    attention: str = "sdpa",
    frozen: Sequence[ModelFacts] = (),
    reference: bool = False,
) -> MemoryEstimate:
    """Bytes that one device needs to train rows of `longest` tokens, `micro_batch` at a time."""
    adapted = isinstance(tuning, LoraTuning)
    sharded = parallel in ("fsdp", "zero3")
    # Trained numbers are fp32, but where an adapter over a quantized base is sharded TRL's bf16 stays.
    trained_bytes = 2.0 if isinstance(tuning, QloraTuning) and sharded else 4.0
    share = 1.0 / processes if sharded else 1.0
    held = 0.0 if offload else share
    weights = _weight_bytes(facts, tuning, precision)
    gathered = 2 * weights / max(facts.layers, 1) if share < 1 or offload else 0.0
    gradients = trainable * trained_bytes * share
    if parallel == "ddp" and processes > 1:
        gradients *= 2
    states = trainable * STATE_BYTES.get(optimizer, 2 * trained_bytes)
    activations = _activation_bytes(facts, precision, micro_batch * longest, gradient_checkpointing)
    if attention == "eager":
        activations += _score_bytes(facts, precision, micro_batch, longest, gradient_checkpointing)
    tokens = micro_batch * longest
    read = sum(_frozen_bytes(one, precision, precision, tokens, share) for one in frozen)
    if reference:
        copied = trainable * trained_bytes * share
        read += copied if adapted else _frozen_bytes(facts, "fp32", precision, tokens, share)
    return MemoryEstimate(
        weights=round(weights * held + gathered),
        adapter=round(trainable * trained_bytes * share) if adapted else 0,
        gradients=round(gradients),
        optimizer=round(states * held),
        activations=round(activations),
        frozen=round(read),
        runtime=RUNTIME,
    )


def _weight_bytes(facts: ModelFacts, tuning: TuningConfig, precision: str) -> float:
    linear = sum(rows * columns for rows, columns in facts.linear_shapes.values())
    if not isinstance(tuning, LoraTuning):
        copies = 0.0 if precision == "fp32" else linear * BYTES[precision]
        return facts.parameters * BYTES["fp32"] + copies
    plain = BYTES[precision]
    if not isinstance(tuning, QloraTuning):
        return facts.parameters * plain
    return linear * _quantized_bytes(tuning) + (facts.parameters - linear) * plain


def _frozen_bytes(facts: ModelFacts, held: str, precision: str, tokens: int, share: float) -> float:
    """A model that is only read keeps nothing for a backward pass: one layer at a time, and its logits."""
    number = BYTES[precision]
    weights = facts.parameters * BYTES[held]
    gathered = 2 * weights / max(facts.layers, 1) if share < 1 else 0.0
    layer = _layer_bytes(facts.linear_shapes, facts.hidden_size, max(facts.layers, 1), number)
    tile_tokens, tile_words = LOGITS_TILE
    return weights * share + gathered + tokens * layer + min(tokens, tile_tokens) * tile_words * (number + 4)


def _quantized_bytes(tuning: QloraTuning) -> float:
    if tuning.bits == 8:
        return 1.0
    scale = 1.0 + 4.0 / 256 if tuning.double_quantization else 4.0
    return 0.5 + scale / QUANTIZATION_BLOCK


def _activation_bytes(facts: ModelFacts, precision: str, tokens: int, checkpointing: bool) -> float:
    number = BYTES[precision]
    layer = _layer_bytes(facts.linear_shapes, facts.hidden_size, max(facts.layers, 1), number)
    kept = facts.hidden_size * number * facts.layers + layer if checkpointing else layer * facts.layers
    # The last hidden state, its gradient in fp32, and a tile of logits with its fp32 copy; a score has no logits.
    head = facts.hidden_size * (number + 4)
    tile_tokens, tile_words = LOGITS_TILE
    tile = 0 if facts.head == SCORE else min(tokens, tile_tokens) * tile_words * (number + 4)
    return tokens * (kept + head) + tile


def _layer_bytes(shapes: Mapping[str, tuple[int, int]], hidden: int, layers: int, number: float) -> float:
    """Bytes that one layer keeps for one token."""
    both = sum(rows + columns for rows, columns in shapes.values()) / layers
    # Two norms, each with its input and its result in fp32.
    return both * number + 4 * hidden * 4


def _score_bytes(facts: ModelFacts, precision: str, batch: int, longest: int, checkpointing: bool) -> float:
    """Eager attention keeps every score: once in fp32 from the softmax, once in the precision."""
    layers = 1 if checkpointing else facts.layers
    return batch * facts.heads * longest * longest * (4 + BYTES[precision]) * layers
