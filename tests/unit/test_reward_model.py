"""Reward models: what is trained, that it is all saved, what it is measured by, and that answers are paid by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import WORDS, write_rows

from finetune.compose import compose
from finetune.errors import UserError
from finetune.methods import reward
from finetune.model_files import inspect_model
from finetune.model_files.scoring import with_score
from finetune.plan import RunPlan, plan_run

Run = Callable[..., tuple[int, str, str]]
SHORT = ("training.batch_size=4", "training.max_steps=6", "training.save_every=2", "training.learning_rate=1e-2")


def pair_row(number: int, **more: Any) -> dict[str, Any]:
    """A question with a better and a worse answer, now the one longer and now the other."""
    asked = " ".join(WORDS[number * step % len(WORDS)] for step in (1, 3, 5, 7))
    answers = {"chosen": f"Yes {asked.split()[number % 2]}.", "rejected": f"No{' never' * (number % 3)}."}
    return {"prompt": f"{asked} {number}?", **answers, **more}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs in a file."""
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [pair_row(number) for number in range(40)])


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that has learned the recipe's pairs, and its evaluation. Tests that change files copy it first."""
    from finetune.cli import main

    folder = tmp_path_factory.mktemp("tone")
    steps = ("training.max_steps=60", "training.save_every=60")
    assert main(["train", "--recipe", "reward-tone", "name=tone", f"output_dir={folder / 'runs'}", *steps]) == 0
    assert main(["evaluate", str(folder / "runs" / "tone")]) == 0
    return folder / "runs" / "tone"


def planned(folder: Path, rows: Path, *settings: str) -> RunPlan:
    common = [f"data.train={rows}", "method=reward", f"output_dir={folder / 'runs'}", "training.max_steps=4"]
    return plan_run(compose([*common, *settings]))


def saved_bytes(run_dir: Path) -> bytes:
    (file,) = [*run_dir.glob("adapter/adapter_model.safetensors"), *run_dir.glob("model/model.safetensors")]
    return file.read_bytes()


def cut_short(run_dir: Path, step: int) -> None:
    """Leave of a run what a kill after this step would."""
    (run_dir / "outcome.json").unlink()
    for folder in [*run_dir.glob("adapter"), *run_dir.glob("model"), *run_dir.glob("checkpoints/checkpoint-*")]:
        if folder.name != f"checkpoint-{step}":
            shutil.rmtree(folder)


def test_the_better_answers_of_unseen_pairs_are_paid_more(tone: Path) -> None:
    result = json.loads((tone / "eval.json").read_text())
    scores = {rung["name"]: rung["score"] for rung in result["rungs"]}
    assert scores["tuned"] >= 0.85 and scores["chance"] == scores["length"] == 0.5
    assert (result["metric"], result["verdict"], result["held_out"]["rows"]) == ("accuracy", "better", 120)
    tuned = result["rungs"][-1]
    assert tuned["interval"][0] < tuned["score"] <= tuned["interval"][1] and "classes" not in tuned
    parts = {part["name"]: part["scores"] for part in result["slices"]}
    assert parts.keys() == {"chosen is longer", "chosen is shorter"}
    assert parts["chosen is shorter"]["length"] == 0 and parts["chosen is shorter"]["tuned"] >= 0.8
    assert "pairs right" in (tone / "report.md").read_text()


def test_plain_peft_gives_the_scores_that_were_measured(tone: Path) -> None:
    import datasets
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from finetune import tiny
    from finetune.plan import load_plan

    torch.manual_seed(99)  # another score is drawn, and replaced by the saved one
    base = AutoModelForSequenceClassification.from_pretrained(str(tiny.PATH), num_labels=1)
    base.config.pad_token_id = AutoTokenizer.from_pretrained(str(tone / "adapter")).pad_token_id
    model = PeftModel.from_pretrained(base, str(tone / "adapter")).eval()
    split = load_plan(tone).data.held_out
    assert split is not None
    stored, answers = datasets.load_from_disk(split.path), (tone / "answers.jsonl").read_text().splitlines()
    for row, line in list(zip(stored, answers, strict=True))[:10]:
        with torch.no_grad():
            sides = [torch.tensor([row["prompt_ids"] + row[side]]) for side in ("chosen_ids", "rejected_ids")]
            found = [float(model(input_ids=ids).logits) for ids in sides]
        assert found == pytest.approx(json.loads(line)["rewards"], abs=1e-4)


@pytest.mark.parametrize("tuning", ["lora", "full", "qlora"])
def test_an_interrupted_run_ends_in_the_same_weights(
    tuning: str, llama: Path, pairs: Path, finetune: Run, tmp_path: Path
) -> None:
    command = ("train", f"model.name={llama}", f"data.train={pairs}", "method=reward", f"tuning={tuning}", "name=x")
    run_dir = tmp_path / "runs" / "x"
    settings = (*SHORT, "training.keep_checkpoints=3")
    assert finetune(*command, *settings)[0] == 0
    whole = saved_bytes(run_dir)
    cut_short(run_dir, 2)
    code, said, _ = finetune(*command, *settings, "--json")
    assert (code, json.loads(said)["status"]) == (0, "resumed")
    assert saved_bytes(run_dir) == whole


@pytest.mark.parametrize(
    "settings",
    [
        ("tuning=lora",),
        ("tuning=lora", "tuning.modules_to_save=[embed_tokens]"),
        ("tuning=lora", "tuning.new_tokens=['<a>','<b>']"),
        ("tuning=full",),
        ("tuning=full", "tuning.new_tokens=['<a>','<b>']"),
    ],
)
@pytest.mark.parametrize("base", ["tiny", "llama"])
def test_the_plan_counts_what_is_trained(
    base: str, settings: tuple[str, ...], llama: Path, pairs: Path, tmp_path: Path
) -> None:
    from finetune import weights
    from finetune.adapter import trainable_report
    from finetune.tokenizer import load_tokenizer

    plan = planned(tmp_path, pairs, f"model.name={llama if base == 'llama' else base}", *settings)
    tokenizer = load_tokenizer(plan.model, None, tuple(plan.config.tuning.new_tokens))
    model = weights.load(plan, tokenizer)
    report = trainable_report(model)
    assert plan.trainable == report.trainable and "score" in report.modules
    assert not any("score.lora" in name or "lm_head" in name for name, _ in model.named_parameters())
    again = dict(weights.load(plan, tokenizer).named_parameters())
    score = next(name for name in again if name.endswith("score.weight") or "score.modules_to_save" in name)
    assert bool((again[score] == dict(model.named_parameters())[score]).all())  # the same on every rank


def test_what_is_asked_stands_before_both_answers() -> None:
    from trl.trainer.reward_trainer import DataCollatorForPreference

    rows = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "margin": None},
        {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8], "margin": 1.5},
    ]
    batch = reward.Whole(DataCollatorForPreference(0))(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [6, 7, 0, 0], [1, 2, 4, 5], [6, 8, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 2, 4, 2]
    assert batch["margin"].tolist() == [0.0, 1.5]


def test_margins_of_the_rows_and_centring_reach_the_loss(llama: Path, finetune: Run, tmp_path: Path) -> None:
    first = {}
    for name, margin, settings in (("plain", {}, ()), ("wide", {"margin": 3.0}, ()), ("near", {}, (100.0,))):
        rows = write_rows(tmp_path / f"{name}.jsonl", [pair_row(number, **margin) for number in range(24)])
        centred = [f"method.center_rewards={one}" for one in settings]
        command = ("train", f"model.name={llama}", f"data.train={rows}", "method=reward", f"name={name}", *SHORT)
        assert finetune(*command, "data.eval_share=0", "training.log_every=1", *centred)[0] == 0
        first[name] = json.loads((tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert first["wide"] > first["plain"] + 1.5 and first["near"] > first["plain"] + 0.05


def test_a_family_without_a_score_is_refused_by_name(llama: Path, pairs: Path, finetune: Run, tmp_path: Path) -> None:
    other = tmp_path / "granite"
    shutil.copytree(llama, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    (other / "config.json").write_text(json.dumps(config))
    code, _, said = finetune("plan", f"model.name={other}", f"data.train={pairs}", "method=reward")
    assert code == 2 and "GraniteForCausalLM has no score" in said
    assert finetune("plan", f"model.name={llama}", f"data.train={pairs}", "method=reward")[0] == 0


def test_a_reward_model_is_no_language_model(tone: Path, chat_file: Path, finetune: Run) -> None:
    code, _, said = finetune("plan", f"model.name={tone}", "tuning.start=continue", f"data.train={chat_file}")
    assert code == 2 and "gives texts a score" in said


def test_an_adapter_of_a_language_model_is_merged_and_not_continued(
    llama: Path, pairs: Path, finetune: Run, tmp_path: Path
) -> None:
    from models import save_random_adapter

    save_random_adapter(llama, tmp_path / "adapter")
    command = ("train", f"model.name={tmp_path / 'adapter'}", f"data.train={pairs}", "method=reward", "name=x", *SHORT)
    code, _, said = finetune(*command, "tuning.start=continue")
    assert code == 2 and "tuning.start: 'continue'" in said and "use tuning.start=merge" in said
    assert finetune(*command, "tuning.start=merge")[0] == 0
    assert with_score(inspect_model(str(tmp_path / "runs" / "x"), scores=True)).head == "score"


@pytest.mark.parametrize(("start", "tuning"), [("continue", "lora"), ("merge", "lora"), ("merge", "full")])
def test_a_reward_model_is_trained_further(start: str, tuning: str, tone: Path, finetune: Run, tmp_path: Path) -> None:
    command = ("train", "--recipe", "reward-tone", f"model.name={tone}", f"tuning={tuning}", f"tuning.start={start}")
    steps = ("training.max_steps=2", "training.log_every=1", "training.save_every=2", "name=x")
    assert finetune(*command, *steps)[0] == 0
    first = json.loads((tmp_path / "runs" / "x" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["accuracy"] >= 0.75 and first["loss"] < 0.5  # a score that is drawn anew would begin at one half
    code, said, _ = finetune("evaluate", "x", "--json")
    assert code == 0 and json.loads(said)["rungs"][-1]["score"] >= 0.85


def test_an_answer_that_was_cut_off_gets_no_end(tone: Path) -> None:
    from finetune.rewards.learned import find

    model = find(str(tone), "rewards")
    asked = [{"role": "user", "content": "Hi again, the lamp is broken."}]
    whole, cut = (model.tokens(asked, "Sure, a new lamp", finished) for finished in (True, False))
    assert whole is not None and cut == whole[:-1]
    assert model.tokenizer.decode(whole[-1:]) == "<|end|>"
    alone, *both = [*model.rewards([whole]), *model.rewards([cut, whole])]
    assert both[0] != pytest.approx(both[1], abs=1e-3) and both[1] == pytest.approx(alone, abs=1e-5)


def test_answers_are_paid_by_a_trained_model(tone: Path) -> None:
    from finetune.rewards.judge import build
    from finetune.rewards.settings import Rewarded

    given = [json.loads(line) for line in (tone / "answers.jsonl").read_text().splitlines()[:8]]
    asked = [[{"role": "user", "content": row["prompt"]}] for row in given]
    with build(Rewarded(rewards=[str(tone)]), []) as rewards:
        paid = rewards.score(asked, [row["reference"] for row in given], {})
        assert [*rewards.files] == [str(tone / "adapter")] and len(rewards.files[str(tone / "adapter")]) == 64
    assert [*paid.parts] == ["tone"]
    assert paid.totals == pytest.approx([row["rewards"][0] for row in given], abs=1e-4)


def test_what_does_not_fit_into_its_context_is_paid_nothing(tone: Path) -> None:
    from finetune.rewards.judge import build
    from finetune.rewards.settings import Rewarded

    with build(Rewarded(rewards=[str(tone)]), []) as rewards:
        paid = rewards.score(["Hi", "Hi"], ["Sure. " * 3000, "Sure."], {})
    assert paid.totals[0] is None and paid.totals[1] is not None and paid.parts["tone"].exceptions == 1


def test_a_language_model_is_no_reward(llama: Path) -> None:
    from finetune.rewards.judge import build
    from finetune.rewards.settings import Rewarded

    with pytest.raises(UserError, match="writes text, and gives no score"):
        build(Rewarded(rewards=[str(llama)]), [])


def test_settings_of_answers_are_refused(tone: Path, pairs: Path, finetune: Run) -> None:
    for verb in (("evaluate", tone), ("plan", "model=tiny", "method=reward", f"data.train={pairs}")):
        code, _, said = finetune(*verb, "evaluate.metric=f1")
        assert code == 2 and "evaluate.metric: has no effect: a reward model answers nothing" in said
    code, _, said = finetune("evaluate", tone, f"data.eval={pairs}")
    assert code == 2 and "data.eval: has no effect" in said
    code, _, said = finetune("evaluate", tone, "tiny")
    assert code == 2 and "tiny: is no run with method=reward" in said


def test_two_reward_models_are_compared_on_the_same_pairs(tone: Path, finetune: Run, tmp_path: Path) -> None:
    shutil.copytree(tone, tmp_path / "runs" / "first")
    steps = ("training.max_steps=1", "training.learning_rate=1e-6", "name=second")
    assert finetune("train", "--recipe", "reward-tone", *steps)[0] == 0
    code, said, _ = finetune("evaluate", "first", "second", "evaluate.rows=60", "--json")
    result = json.loads(said)
    assert (code, result["best_baseline"], result["held_out"]["rows"]) == (0, "length", 60)
    against = {one["against"]: one["verdict"] for one in result["comparisons"]}
    assert against["second"] == "better" and result["rewards"].keys() == {"first", "second"}


def test_of_several_answers_the_one_that_is_paid_most_is_taken(llama: Path, tone: Path) -> None:
    from finetune.endpoint.asked import Sampling
    from finetune.evaluate.local import speech_of
    from finetune.model import load_model
    from finetune.rewards.best import Best, best_of
    from finetune.rewards.judge import build
    from finetune.rewards.learned import find
    from finetune.rewards.settings import Rewarded

    facts = inspect_model(str(llama))
    speech, judge = speech_of(facts), find(str(tone), "rewards")
    model = load_model(facts, precision="fp32", attention="sdpa", full=False, tokenizer=speech.tokenizer).eval()
    asked = [[{"role": "user", "content": f"Say {word}."}] for word in WORDS[:3]]

    def drawn(count: int, batch_size: int) -> list[Best]:
        with build(Rewarded(rewards=[str(tone)]), []) as rewards:
            sampling = Sampling(1.0, None, 8)
            return best_of(count, model, speech, asked, rewards, {}, seed=1, batch_size=batch_size, sampling=sampling)

    def worth(at: int, text: str, finished: bool) -> float:
        ids = judge.tokens(asked[at], text, finished)
        assert ids is not None
        return judge.rewards([ids])[0]

    many = drawn(6, 4)
    assert [one.answer.ids for one in drawn(6, 18)] == [one.answer.ids for one in many]
    for one, fewer in zip(many, drawn(2, 6), strict=True):
        assert fewer.paid == pytest.approx(one.paid[:2], abs=1e-5)
    for at, one in enumerate(many):
        best = max(value for value in one.paid if value is not None)
        assert len({*one.paid}) > 1 and best == pytest.approx(worth(at, one.answer.text, one.answer.stopped), abs=1e-4)
    cut = [(at, one) for at, one in enumerate(many) if not one.answer.stopped]
    assert cut and all(worth(at, one.answer.text, True) != pytest.approx(max(one.paid), abs=1e-4) for at, one in cut)
