"""Makes the embedded base model from nothing: tokenizer, training, scores, card."""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from finetune.tiny import PATH
from finetune.tiny.curriculum import WORDS, Episode, block, exams
from finetune.tiny.words import ADJECTIVES, ASIDES, COLOURS, COMMON, PAST_VERBS, PLACES_PHRASES, TIMES

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 7
VOCABULARY = 3072
CONTEXT = 2048
PAD, END = "<|pad|>", "<|end|>"
SPECIAL = [PAD, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
VISIBLE = [
    "<|call|>",
    "<think>",
    "</think>",
]  # kept when special tokens are skipped: they are part of an answer
EPISODES = 3072  # per block
BLOCKS = 100
RESTART = 84  # the block from which the learning rate falls a second time, from half its height
ROWS = 200  # per exam
TEXT_WEIGHT = 0.15  # of a token of plain text, where an answer's token weighs 1
LAYERS, WIDTH = 5, 192


@dataclass(frozen=True)
class Row:
    """Token ids and the loss weight of each."""

    ids: list[int]
    weights: list[float]


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level BPE trained on the curriculum; words are split as SmolLM's are, digits one by one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    episodes = [e for index in (10, 50, 90) for e in block(SEED, index, 8192, stage=2 * index)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(VISIBLE),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [form for word in set(_words()) for form in 80 * [f" {word}"] + 20 * [word] + 10 * [word.capitalize()]]
    inner.train_from_iterator([*(piece for e in episodes for piece in _pieces(e)), *sorted(words)], trainer)
    inner.add_tokens(VISIBLE)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=SPECIAL[2:],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=(PATH / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def _words() -> list[str]:
    return WORDS + COMMON + ADJECTIVES + COLOURS + PAST_VERBS + " ".join(TIMES + PLACES_PHRASES + ASIDES).split()


def _pieces(episode: Episode) -> list[str]:
    return [message["content"] for message in episode.messages] or [episode.text]


def rows_of(episodes: list[Episode], tokenizer: "PreTrainedTokenizerFast") -> list[Row]:
    """What the chat template would give, token by token, with the weight of each token in the loss."""
    encoded = iter(tokenizer([p for e in episodes for p in _pieces(e)], add_special_tokens=False)["input_ids"])
    role = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("system", "user", "assistant")}
    end = tokenizer.eos_token_id
    rows = []
    for episode in episodes:
        ids: list[int] = []
        weights: list[float] = []
        if episode.text:
            ids = [*next(encoded), end]
            weights = [TEXT_WEIGHT] * len(ids)
        for index, message in enumerate(episode.messages):
            body = [*next(encoded), end]
            ids += [role[message["role"]], *body]
            weights += [0.0] + [1.0 if index in episode.trained else 0.0] * len(body)
        rows.append(Row(ids, weights))
    return rows


def batches_of(rows: list[Row], tokens: int, rng: Random) -> Iterator[list[Row]]:
    """Rows of like length together, at most `tokens` a batch after padding, in random order."""
    batches: list[list[Row]] = [[]]
    for row in sorted(rows, key=lambda r: len(r.ids)):
        if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > tokens:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    yield from batches


def tensors_of(rows: list[Row], pad: int) -> tuple["Tensor", "Tensor"]:
    """Ids and weights, padded on the right."""
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows])
    weights = torch.tensor([row.weights + [0.0] * (width - len(row.weights)) for row in rows])
    return ids, weights


def shipped_tokenizer() -> "PreTrainedTokenizerFast":
    """The embedded model's own, for models of another size that are to share it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(PATH), local_files_only=True)


def build_model(tokenizer: "PreTrainedTokenizerFast", layers: int = LAYERS, width: int = WIDTH) -> "LlamaForCausalLM":
    """An untrained model: about 2.6 million parameters, or 1.3 million at a width of 128."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=round(width * 7 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def answer_logits(model: "LlamaForCausalLM", ids: "Tensor", weights: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
    """Logits, targets and weights at the places that carry loss, and nowhere else."""
    hidden = model.model(ids).last_hidden_state[:, :-1]
    used = weights[:, 1:] > 0
    logits: Tensor = model.lm_head(hidden[used])
    return logits.float(), ids[:, 1:][used], weights[:, 1:][used]


def optimizers_of(model: "LlamaForCausalLM") -> list["Optimizer"]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    import torch

    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(inside, lr=6e-3, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(index: int, blocks: int, step: int) -> float:
    """The share of the full learning rate: short warm-up, plateau, linear fall over the last third; then once more."""
    if index >= RESTART:
        return 0.5 * (blocks - index) / (blocks - RESTART)
    return min(1.0, (step + 1) / 100, (1 - index / min(blocks, RESTART)) / 0.35)


def train(
    model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", work: Path, blocks: int, threads: int
) -> None:
    """Trains in place; continues from the last state in `work`, which is written every five blocks."""
    import torch

    torch.set_num_threads(threads)
    optimizers = optimizers_of(model)
    full = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first, step = _load(model, optimizers, work)
    began, seen = time.monotonic(), 0
    for index in range(first, blocks):
        rows = rows_of(block(SEED, index, EPISODES), tokenizer)
        lost = weighed = 0.0
        budget = 2048 if index < 70 else 4096
        for batch in batches_of(rows, budget, Random(index)):
            ids, weights = tensors_of(batch, tokenizer.pad_token_id)
            share = rate(index, blocks, step)
            for group, lr in zip((g for o in optimizers for g in o.param_groups), full, strict=True):
                group["lr"] = lr * share
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, targets, scale = answer_logits(model, ids, weights)
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * scale
            (losses.sum() / scale.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            step, seen = step + 1, seen + ids.numel()
            lost, weighed = lost + float(losses.detach().sum()), weighed + float(scale.sum())
        spent = time.monotonic() - began
        print(
            f"block {index + 1}/{blocks} step {step} loss {lost / weighed:.3f} "
            f"{seen / spent:.0f} tokens/s {spent:.0f}s",
            flush=True,
        )
        if (index + 1) % 5 == 0 or index + 1 == blocks:
            _save(model, optimizers, work, index + 1, step)
        if (index + 1) % 20 == 0:
            print(f"    {score(model, tokenizer, 40)}", flush=True)


def _save(model: "LlamaForCausalLM", optimizers: list["Optimizer"], work: Path, done: int, step: int) -> None:
    from safetensors.torch import save_file

    state = {f"model.{key}": value.detach().clone() for key, value in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for parameter, entries in optimizer.state_dict()["state"].items():
            state |= {f"{number}.{parameter}.{key}": value.detach().clone() for key, value in entries.items()}
    work.mkdir(parents=True, exist_ok=True)
    save_file(state, work / "state.tmp", metadata={"done": str(done), "step": str(step)})
    (work / "state.tmp").replace(work / "state.safetensors")


def _load(model: "LlamaForCausalLM", optimizers: list["Optimizer"], work: Path) -> tuple[int, int]:
    from safetensors import safe_open

    if not (work / "state.safetensors").exists():
        return 0, 0
    with safe_open(work / "state.safetensors", framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        meta = file.metadata()
    for key, value in model.named_parameters():
        value.data.copy_(state.pop(f"model.{key}"))
    for number, optimizer in enumerate(optimizers):
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            owner, parameter, field = key.split(".")
            if int(owner) == number:
                entries.setdefault(int(parameter), {})[field] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    return int(meta["done"]), int(meta["step"])


def score(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", rows: int = ROWS) -> dict[str, float]:
    """The share of exactly right answers per exam.

    The most likely token is compared at each place of the answer. It is right everywhere just when greedy
    decoding gives the whole answer and then ends the turn.
    """
    import torch

    scores = {}
    for kind, episodes in exams(rows).items():
        last = [Episode(e.skill, e.messages, e.trained[-1:]) for e in episodes]
        right = 0
        for batch in batches_of(rows_of(last, tokenizer), 16384, Random(0)):
            ids, weights = tensors_of(batch, tokenizer.pad_token_id)
            with torch.inference_mode():
                logits, targets, _ = answer_logits(model, ids, weights)
            owner = torch.nonzero(weights[:, 1:] > 0)[:, 0]
            right += len(batch) - len(set(owner[logits.argmax(-1) != targets].tolist()))
        scores[kind] = round(right / rows, 3)
    return scores


def publish(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", output: Path) -> None:
    """Writes the model's files: weights in 16 bits, to be loaded in 32."""
    import copy

    import torch

    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output)
    copy.deepcopy(model).to(torch.float16).save_pretrained(output)
    _amend(output / "config.json", dtype="float32")
    _amend(output / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (output / "model.safetensors").chmod(0o644)
    generation = {
        "do_sample": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    (output / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def _amend(file: Path, **values: str) -> None:
    fields = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_scores(folder: Path, rows: int = ROWS) -> dict[str, float]:
    """Scores the published files and writes `scores.json` and the table in the card."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    scores = score(model, tokenizer, rows)
    report: dict[str, Any] = {
        "rows_per_exam": rows,
        "error_95": round(0.98 / math.sqrt(rows), 3),
        "exact": scores,
    }
    (folder / "scores.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    card = folder / "README.md"
    if card.exists():
        head, _, rest = card.read_text(encoding="utf-8").partition("<!-- scores -->\n")
        _, _, tail = rest.partition("<!-- end of scores -->\n")
        lines = ["| exam on unseen names | exactly right |", "|---|---|"]
        lines += [f"| {kind} | {100 * share:.1f} % |" for kind, share in scores.items()]
        table = "\n".join(lines)
        card.write_text(f"{head}<!-- scores -->\n{table}\n<!-- end of scores -->\n{tail}", encoding="utf-8")
    return scores


def main(argv: list[str] | None = None) -> None:
    """The command behind `scripts/make_tiny_model`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PATH, help="where the model's files go")
    parser.add_argument("--work", type=Path, help="where the training state is kept between attempts")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"of {EPISODES} episodes each")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the model; another size shares the tokenizer")
    parser.add_argument(
        "--width", type=int, default=WIDTH, help="of the model, a multiple of 32; 128 for half the size"
    )
    parser.add_argument("--score-only", action="store_true", help="score the files that are there, train nothing")
    given = parser.parse_args(argv)
    if not (given.work or given.score_only):
        parser.error("--work FOLDER is needed to train; --score-only scores the files that are there")
    other_size = (given.layers, given.width) != (LAYERS, WIDTH)
    if given.layers < 1 or given.width < 32 or given.width % 32:
        parser.error("--layers must be at least 1, and --width a multiple of 32")
    if other_size and given.output == PATH:
        parser.error("--output FOLDER is needed for another size: the embedded model stays as it is")
    if not given.score_only:
        tokenizer = shipped_tokenizer() if other_size else build_tokenizer()
        model = build_model(tokenizer, given.layers, given.width)
        train(model, tokenizer, given.work, given.blocks, given.threads)
        publish(model, tokenizer, given.output)
    for kind, share in write_scores(given.output).items():
        print(f"{share:6.3f}  {kind}")


if __name__ == "__main__":
    main()
