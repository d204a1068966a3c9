"""The tokenizer and chat template of a model, loaded without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import Fault, UserError, first_line, listed
from finetune.model_files import ModelFacts

# Templates in use are below 20 kB; one of megabytes is a mistake or an attack on the renderer.
MAX_TEMPLATE = 200_000

# Files from which a tokenizer without tokenizer.json can still be built.
OLDER_FILES = ("vocab.json", "tokenizer.model", "vocab.txt", "tekken.json", "spiece.model")

# Tokens that families keep for padding, in the order in which they are taken.
RESERVED_PADDING = (
    "<|finetune_right_pad_id|>",
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<PAD>",
    "<|padding|>",
    "<|endoftext|>",
    "<|reserved_special_token_0|>",
    "<unused0>",
)
GENERATION_TAG = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
# What transformers raises over a tokenizer.json of another shape than it expects.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)
NEW_PADDING = "<|pad|>"
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>", "<|eom_id|>")


@dataclass(frozen=True)
class PadChoice:
    """The padding token of a run, and why it is that one."""

    token: str
    id: int
    reason: str


def load_tokenizer(facts: ModelFacts, chat_template: str | None = None, new_tokens: tuple[str, ...] = ()) -> Any:
    """The model's fast tokenizer, with a padding token that is not its stop token, and the given template."""
    return load_with_padding(facts, chat_template, new_tokens)[0]


def load_with_padding(
    facts: ModelFacts, chat_template: str | None = None, new_tokens: tuple[str, ...] = ()
) -> tuple[Any, PadChoice]:
    """The tokenizer as `load_tokenizer` gives it, and why it pads with what it pads with.

    An adapter that was saved with a tokenizer is loaded with it: its tokens and template are part of it.
    """
    folder = tokenizer_folder(facts)
    tokenizer = _load(facts, folder)
    _check_size(tokenizer, facts, folder)
    _add_tokens(tokenizer, new_tokens)
    if chat_template is not None:
        tokenizer.chat_template = _read_template(Path(chat_template))
    _check_template(tokenizer, f"model.chat_template {chat_template}" if chat_template else "", folder)
    padding = choose_padding(tokenizer, facts)
    tokenizer.pad_token = padding.token
    tokenizer.padding_side = "right"
    return tokenizer, padding


def tokenizer_folder(facts: ModelFacts) -> Path:
    """Where the tokenizer of a model lies."""
    if facts.adapter is not None and (Path(facts.adapter.path) / "tokenizer.json").exists():
        return Path(facts.adapter.path)
    return Path(facts.path)


def _load(facts: ModelFacts, folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        _check_json(folder)
        try:
            # tokenizer.json is complete in itself: the class that AutoTokenizer picks adds nothing but torch.
            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:
            # The tokenizers library raises bare Exception for whatever is wrong inside the file.
            if type(error) is not Exception and not isinstance(error, UNREADABLE):
                raise
            what = f"cannot be read ({first_line(error):.120})"
            raise UserError.at(str(folder / "tokenizer.json"), what, "download the file again") from error
    if not any((folder / name).is_file() for name in OLDER_FILES):
        what = f"is missing, and so are {', '.join(OLDER_FILES[:2])}"
        raise UserError.at(str(folder / "tokenizer.json"), what, "download the model's tokenizer files too")
    return _convert(facts, folder)


def _convert(facts: ModelFacts, folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=facts.trust_remote_code, local_files_only=True
        )
    except (ValueError, OSError, ImportError) as error:
        what = f"has no tokenizer.json, and its older files cannot be converted ({first_line(error):.120})"
        raise UserError.at(str(folder), what, "use a model that has tokenizer.json") from error
    if not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} has no fast version, which the loss mask needs"
        raise UserError.at(str(folder), what, "use a model that has tokenizer.json")
    return tokenizer


def _check_json(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError.at(str(path), f"is not valid JSON ({error})", "download the file again") from error
        if not isinstance(found, dict):
            raise UserError.at(str(path), "must be a JSON object", "download the file again")


def _check_size(tokenizer: Any, facts: ModelFacts, folder: Path) -> None:
    rows = facts.vocab_size
    largest = max(tokenizer.get_vocab().values())
    # Tokens that an earlier run added have rows in that run's adapter, not in the base.
    if largest >= rows and folder == Path(facts.path):
        what = f"has token ids up to {largest}, but the model's embedding has {rows} rows"
        raise UserError.at(str(folder / "tokenizer.json"), what, "use the tokenizer that belongs to these weights")


def _add_tokens(tokenizer: Any, new_tokens: tuple[str, ...]) -> None:
    known = tokenizer.get_vocab()
    faults = [
        Fault("tuning.new_tokens", f"{token!r} is in the vocabulary already", "leave it out")
        for token in new_tokens
        if token in known
    ]
    faults += [
        Fault("tuning.new_tokens", f"{token!r} is empty or repeated", "give each token once")
        for token in new_tokens
        if not token.strip() or new_tokens.count(token) > 1
    ]
    if faults:
        raise UserError(dict.fromkeys(faults))
    tokenizer.add_tokens(list(new_tokens))


def _read_template(path: Path) -> str:
    where, path = f"model.chat_template {path}", path.expanduser()
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise UserError.at(where, what, "give the path of a Jinja file")
    if path.stat().st_size > MAX_TEMPLATE:
        raise UserError.at(where, f"is larger than {MAX_TEMPLATE} bytes", "give a chat template, not other data")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError.at(where, f"is not UTF-8 at byte {error.start}", "convert it with iconv") from error


def _templates(tokenizer: Any) -> Iterator[tuple[str, str]]:
    found = tokenizer.chat_template
    if isinstance(found, dict):
        yield from ((str(name), str(text)) for name, text in found.items())
    elif found:
        yield "default", str(found)


def _check_template(tokenizer: Any, given: str, folder: Path) -> None:
    """Refuse a template that no renderer takes; `given` is the place of one that is not the model's."""
    from jinja2 import Environment, TemplateSyntaxError

    names = sorted(name for name, _ in _templates(tokenizer))
    if names and "default" not in names:
        what = f"has several and no default one: {listed(names)}"
        raise UserError.at(f"{folder} chat_template", what, "set model.chat_template to a file with the one to use")
    for name, text in _templates(tokenizer):
        where = given or f"{folder} chat_template ({name})"
        mend = "correct it" if given else "set model.chat_template to your own"
        if len(text) > MAX_TEMPLATE:
            raise UserError.at(where, f"is larger than {MAX_TEMPLATE} bytes", mend)
        try:
            # Only transformers' own renderer knows the generation tag; the rest of the syntax is Jinja's.
            Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION_TAG.sub("", text))
        except TemplateSyntaxError as error:
            raise UserError.at(f"{where}:{error.lineno}", f"{error.message}", mend) from error


def stop_ids(facts: ModelFacts, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends an answer: of the generation settings, the configuration, the tokenizer."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = Path(facts.path) / name
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(id for id in found if isinstance(id, int)))


def choose_padding(tokenizer: Any, facts: ModelFacts) -> PadChoice:
    """A padding token that rows use for nothing else; one is added where the vocabulary has none to spare.

    Padding with the stop token, where labels are masked by token, teaches a model never to stop, and padding
    with a token of the text hides that token, so neither is ever taken.
    """
    vocabulary = tokenizer.get_vocab()
    own, used = tokenizer.pad_token, _used(tokenizer)
    # The model's own may be one more stop token of its generation settings: no row of ours ends with it.
    if own is not None and own not in used:
        return PadChoice(own, vocabulary[own], "the model's own")
    why = "the model has none" if own is None else f"the model's own, {own}, has another use"
    stops = {tokenizer.convert_ids_to_tokens(id) for id in stop_ids(facts, tokenizer) if id < len(tokenizer)}
    for token in RESERVED_PADDING:
        if token in vocabulary and token not in used | stops:
            return PadChoice(token, vocabulary[token], f"{why}; the vocabulary keeps this one for such uses")
    tokenizer.add_special_tokens({"pad_token": NEW_PADDING})
    added = tokenizer.pad_token_id
    room = "a spare row of the embedding" if added < facts.vocab_size else "a row that is added to the embedding"
    return PadChoice(NEW_PADDING, added, f"{why}; added, on {room}")


def _used(tokenizer: Any) -> set[str]:
    """Tokens that begin, end or replace something, or that a template writes."""
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, *TURN_ENDS}
    written = {
        token
        for token in (*RESERVED_PADDING, tokenizer.pad_token)
        for _, template in _templates(tokenizer)
        if token is not None and token in template
    }
    return {token for token in named | written if token is not None}
