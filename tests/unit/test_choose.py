"""The decision: situations and the advice for each; every rule of every table is reached, every command composes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from finetune import cli
from finetune.choose.base import fits_of
from finetune.choose.commands import Command, Preset, given, next_commands
from finetune.choose.decide import TUNE, decide
from finetune.choose.needs import LEAST_ROWS, LEAST_TOKENS, NEEDS
from finetune.choose.paths import PATHS
from finetune.choose.settings import read_settings
from finetune.choose.situation import Advice, Base, Evidence, Fit, Measured, Rows, Situation, Tokens
from finetune.choose.stops import STOPS
from finetune.choose.tunings import TUNINGS
from finetune.compose import compose
from finetune.data.build import synth
from finetune.data.examine.settings import IDLE, CheckSettings
from finetune.machine import Machine
from finetune.methods import METHODS
from finetune.plan.facts import Facts
from finetune.settings.verb import read_verb

RETRIEVED = ("prompt", "few_shot", "retrieval")
LORA, QLORA, FULL = Fit("lora", (), 18.0), Fit("qlora", (), 7.0), Fit("full", (), 120.0)
SMALL_BATCH = Fit("lora", ("training.batch_size=2", "training.accumulation=4"), 22.0)
SHARDED = Fit("sharded", ("launch.processes=4", "parallel=fsdp"), 20.0)


def rows(kind: str = "chat", count: int = 1000, **more: Any) -> tuple[Rows, ...]:
    return (Rows("rows.jsonl", kind, count, **more),)


def base(*fits: Fit, hours: float | None = 2.0) -> Base:
    return Base("some/model", 8_000_000_000, "a GPU of 24 GB", False, fits, hours)


def scored(*scores: tuple[float, float, float], n: int = 200) -> Evidence:
    """The base alone, then with three examples: score and interval of each."""
    named = zip(("base", "few_shot"), (0, 3), scores, strict=False)
    return Evidence("exact", n, tuple(Measured(name, s, (a, b), shown) for name, shown, (s, a, b) in named))


@dataclass(frozen=True)
class Case:
    """A situation, and what must be advised in it."""

    name: str
    situation: Situation
    stop: str = TUNE
    path: str = ""
    stages: tuple[str, ...] = ()
    tuning: str = ""


S = Situation
CASES = (
    # Behaviour
    Case("stable behaviour, shown in examples", S(rows=rows()), TUNE, "examples", ("sft",), "not_looked_at"),
    Case("behaviour that changes once a month", S(changes="monthly", rows=rows()), TUNE, "examples", ("sft",)),
    Case("behaviour that changes every day", S(changes="daily", rows=rows()), "moving"),
    Case("behaviour that changes by the minute", S(changes="live", rows=rows()), "moving"),
    Case("nothing was tried", S(tried=(), rows=rows()), "prompt", "examples", ("sft",)),
    Case("only a prompt was tried", S(tried=("prompt",), rows=rows()), "few_shot", "examples", ("sft",)),
    Case("no rows at all", S(), "no_rows", "examples", ("sft",)),
    Case("49 rows", S(rows=rows(count=49)), "few_rows", "examples", ("sft",)),
    Case("50 rows", S(rows=rows(count=50)), TUNE, "examples", ("sft",)),
    Case("few rows and a larger model",
         S(rows=rows(count=20), teacher="org/large"), "teacher_writes", "examples", ("sft",)),
    Case("prompts nobody answered", S(rows=rows("prompts")), "unanswered", "examples", ("sft",)),
    Case("prompts for a larger model",
         S(rows=rows("prompts"), teacher="org/large"), "unanswered", "examples", ("sft",)),
    # Knowledge
    Case("facts that do not change", S(gap="knowledge", rows=rows()), "facts"),
    Case("facts and no rows", S(gap="knowledge"), "facts"),
    Case("facts in plain text", S(gap="knowledge", rows=rows("text")), "facts"),
    Case("knowledge that changes",
         S(gap="knowledge", changes="weekly", rows=rows("grounded")), "retrieval", "reading", ("grounded",)),
    Case("knowledge that changes, retrieval falls short",
         S(gap="knowledge", changes="weekly", tried=RETRIEVED, rows=rows("grounded")), TUNE, "reading",
         ("grounded",)),
    Case("facts, retrieval falls short",
         S(gap="knowledge", tried=RETRIEVED, rows=rows("grounded")), TUNE, "reading", ("grounded",)),
    Case("knowledge and behaviour",
         S(gap="both", changes="monthly", rows=rows()), "retrieval", "reading", ("grounded",)),
    Case("knowledge, retrieval falls short, few rows",
         S(gap="both", tried=RETRIEVED, rows=rows("grounded", 100)), "few_passages", "reading", ("grounded",)),
    Case("facts that change by the minute",
         S(gap="knowledge", changes="live", rows=rows()), "live", "calls", ("sft",)),
    Case("tools that are called badly",
         S(gap="both", changes="live", tried=("prompt", "few_shot", "tools"), rows=rows()), TUNE,
         "calls", ("sft",)),
    Case("a corpus of plain text", S(rows=rows("text", 40), tokens=Tokens(5 * 10**6)), TUNE, "corpus", ("sft",)),
    Case("a corpus, and retrieval falls short",
         S(gap="knowledge", tried=RETRIEVED, rows=rows("text", 40), tokens=Tokens(5 * 10**6)), TUNE, "corpus", ("sft",)),
    Case("little plain text", S(rows=rows("text", 4000), tokens=Tokens(LEAST_TOKENS - 1)), "few_rows", "corpus", ("sft",)),
    # Feedback and checks
    Case("verifiable answers", S(verifiable=True, rows=rows()), TUNE, "checked", ("sft", "grpo")),
    Case("tasks with a checker, no answers",
         S(verifiable=True, rows=rows("tasks")), TUNE, "checked_tasks", ("grpo",)),
    Case("prompts with a checker", S(verifiable=True, rows=rows("prompts")), TUNE, "checked_tasks", ("grpo",)),
    Case("few tasks with a checker",
         S(verifiable=True, rows=rows("tasks", 30)), "few_rows", "checked_tasks", ("grpo",)),
    Case("pairs", S(feedback="pairs", rows=rows("pairs")), TUNE, "preferred", ("sft", "dpo")),
    Case("examples, and pairs that are not shown",
         S(feedback="pairs", rows=rows()), TUNE, "preferred", ("sft", "dpo")),
    Case("thumbs only", S(feedback="thumbs", rows=rows("votes")), TUNE, "rated", ("kto",)),
    Case("thumbs and examples",
         S(feedback="thumbs", rows=(*rows(), *rows("votes"))), TUNE, "rated_examples", ("sft", "kto")),
    Case("few thumbs", S(feedback="thumbs", rows=rows("votes", 60)), "few_rows", "rated", ("kto",)),
    Case("human feedback at scale",
         S(feedback="scale", rows=rows("pairs", 50_000)), TUNE, "rlhf", ("reward", "rloo")),
    Case("feedback at scale, hardly any yet",
         S(feedback="scale", rows=rows("pairs", 300)), "few_rows", "rlhf", ("reward", "rloo")),
    # Images, variants, teachers
    Case("images", S(images=True, rows=rows("images")), TUNE, "images", ("vision",)),
    Case("images and few rows", S(images=True, rows=rows("images", 30)), "few_rows", "images", ("vision",)),
    Case("images, few rows and a larger model",
         S(images=True, rows=rows("images", 30), teacher="org/large"), "few_rows", "images", ("vision",)),
    Case("images and preferences",
         S(images=True, feedback="pairs", rows=rows("images")), TUNE, "images", ("vision",)),
    Case("several variants",
         S(variants=5, rows=rows(), base=base(LORA, QLORA)), TUNE, "examples", ("sft",), "variants"),
    Case("several variants, lora tried",
         S(variants=5, tried=("prompt", "few_shot", "tuning"), rows=rows(), base=base(LORA, FULL)),
         TUNE, "examples", ("sft",), "higher_rank"),
    Case("a larger model that costs too much",
         S(teacher="org/large", cost=True, rows=rows()), TUNE, "smaller", ("distill",)),
    Case("a larger model that costs too much, few rows",
         S(teacher="org/large", cost=True, rows=rows(count=100)), "teacher_writes", "smaller", ("distill",)),
    Case("a larger model, but cost is no issue", S(teacher="org/large", rows=rows()), TUNE, "examples", ("sft",)),
    Case("cost, but no larger model", S(cost=True, rows=rows()), TUNE, "examples", ("sft",)),
    # What speaks for one thing and against another
    Case("verifiable, and pairs",
         S(verifiable=True, feedback="pairs", rows=rows("pairs")), TUNE, "checked", ("sft", "grpo")),
    Case("verifiable, and a larger model costs too much",
         S(verifiable=True, teacher="org/large", cost=True, rows=rows()), TUNE, "smaller", ("distill",)),
    Case("verifiable facts", S(verifiable=True, gap="knowledge", rows=rows()), "facts"),
    Case("pairs about facts that change", S(gap="both", changes="weekly", feedback="pairs", rows=rows("pairs")),
         "retrieval", "reading", ("grounded",)),
    Case("images that change every day", S(images=True, changes="daily", rows=rows("images")), "moving"),
    # Memory and time
    Case("lora fits", S(rows=rows(), base=base(LORA, QLORA, FULL)), TUNE, "examples", ("sft",), "lora"),
    Case("lora fits with a smaller batch",
         S(rows=rows(), base=base(SMALL_BATCH, QLORA)), TUNE, "examples", ("sft",), "lora"),
    Case("only qlora fits", S(rows=rows(), base=base(QLORA)), TUNE, "examples", ("sft",), "qlora"),
    Case("several variants, only qlora fits",
         S(variants=3, rows=rows(), base=base(QLORA)), TUNE, "examples", ("sft",), "variants"),
    Case("only all devices together", S(rows=rows(), base=base(SHARDED)), TUNE, "examples", ("sft",), "sharded"),
    Case("nothing fits", S(rows=rows(), base=base()), TUNE, "examples", ("sft",), "too_large"),
    Case("lora falls short, full fits", S(tried=("prompt", "few_shot", "tuning"), rows=rows(), base=base(LORA, FULL)),
         TUNE, "examples", ("sft",), "full"),
    Case("lora falls short, full does not fit",
         S(tried=("prompt", "few_shot", "tuning"), rows=rows(), base=base(LORA)),
         TUNE, "examples", ("sft",), "higher_rank"),
    Case("time for one epoch", S(hours=2, rows=rows(), base=base(LORA, hours=5)), TUNE, "examples", ("sft",), "lora"),
    Case("time for less than an epoch",
         S(hours=1, rows=rows(), base=base(LORA, hours=5)), TUNE, "examples", ("sft",), "too_slow"),
    Case("months on a processor",
         S(rows=rows(), base=base(LORA, hours=3000)), TUNE, "examples", ("sft",), "too_slow"),
    # Evidence
    Case("examples reach the target",
         S(rows=rows(), target=0.8, evidence=scored((0.2, 0.15, 0.26), (0.9, 0.85, 0.94))), "enough"),
    Case("the base reaches the target", S(rows=rows(), target=0.8, evidence=scored((0.9, 0.85, 0.94))), "enough"),
    Case("the target may be reached",
         S(rows=rows(), target=0.8, evidence=scored((0.2, 0.15, 0.26), (0.82, 0.76, 0.87))),
         "undecided", "examples", ("sft",)),
    Case("the target is not reached",
         S(rows=rows(), target=0.8, evidence=scored((0.2, 0.15, 0.26), (0.4, 0.33, 0.47))),
         TUNE, "examples", ("sft",)),
    Case("nothing left to gain", S(rows=rows(), evidence=scored((0.5, 0.43, 0.57), (0.99, 0.96, 1.0))), "no_room"),
    Case("perhaps nothing left to gain", S(rows=rows(), evidence=scored((0.96, 0.93, 0.98))), TUNE, "examples", ("sft",)),
    Case("room above a target that was set low is no matter",
         S(rows=rows(), target=0.999, evidence=scored((0.5, 0.43, 0.57), (0.99, 0.96, 0.995))), TUNE, "examples",
         ("sft",)),
    Case("much left to gain",
         S(rows=rows(), evidence=scored((0.0, 0.0, 0.02), (0.3, 0.24, 0.37))), TUNE, "examples", ("sft",)),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_advice_for_a_situation(case: Case) -> None:
    advice = decide(case.situation)
    assert (advice.stop, advice.path) == (case.stop, case.path)
    assert tuple(stage.method for stage in advice.stages) == case.stages
    if case.tuning:
        assert advice.tuning_rule == case.tuning
    assert advice.tunes == (case.stop == TUNE)
    assert advice.sentence and advice.reasons and advice.would_change


def test_there_are_situations_enough() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_rule_is_reached() -> None:
    advice = [decide(case.situation) for case in CASES]
    assert {one.stop for one in advice} == {stop.name for stop in STOPS} | {TUNE}
    assert {one.path for one in advice} == {path.name for path in PATHS} | {""}
    assert {one.tuning_rule for one in advice} == {tuning.name for tuning in TUNINGS} | {""}


def test_every_method_is_advised_in_some_situation() -> None:
    advised = {stage.method for case in CASES for stage in decide(case.situation).stages}
    assert set(METHODS) <= advised
    assert advised == set(NEEDS) == {name for path in PATHS for name in path.stages}


def test_a_method_that_is_not_there_is_named_with_what_is_missing() -> None:
    for method, need in NEEDS.items():
        assert method in METHODS or (need.missing and need.until)
    advice = decide(S(gap="knowledge", tried=RETRIEVED, rows=rows("grounded")))
    assert not advice.stages[0].there
    said = next(one for one in advice.missing if one.startswith("grounded is not there yet"))
    assert "this version has no way of training on questions" in said and "put the passages into the prompts" in said


def composes(command: Command) -> None:
    """The command is one of ours, and its settings are read."""
    words = list(command.words)
    assert words[0] == "finetune"
    verb, rest = cli._find_verb(words[1:])
    parsed = cli._parse(verb, rest)
    if verb in ("train", "plan"):
        compose(parsed.arguments)
    elif verb == "choose":
        read_settings([*parsed.arguments, *(["choose.measure=true"] if parsed.measure else [])])
    elif verb == "data check":
        read_verb("data check", CheckSettings(), parsed.arguments, IDLE)
    elif verb == "data build synth":
        synth.read_settings(list(parsed.arguments))
    elif verb == "demo":
        assert not parsed.arguments
    else:
        assert verb == "evaluate" and parsed.arguments[0].startswith("runs/")


def commands_of(case: Case) -> tuple[Advice, list[Command]]:
    situation = case.situation
    shown = tuple(replace(one, layout="prompt_completion" if one.kind == "pairs" else "") for one in situation.rows)
    situation = replace(situation, rows=shown)
    advice = decide(situation)
    passed = ["evaluate.metric=f1", *(["data.limit=900"] if shown else [])]
    return advice, next_commands(advice, situation, given(passed, Preset("qwen3-4b", 4_000_000_000)))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_command_that_is_printed_exists_and_composes(case: Case) -> None:
    advice, commands = commands_of(case)
    assert any(command.words[1] != "data" for command in commands) or advice.stop in ("enough", "no_room")
    assert commands
    for command in commands:
        composes(command)
    verbs = [command.words[1] for command in commands]
    assert ("train" in verbs) <= advice.tunes
    kinds = {one.kind for one in case.situation.rows}
    if advice.tunes and advice.tuning and any(stage.there for stage in advice.stages) and kinds - {"prompts"}:
        assert {"plan", "train", "evaluate"} <= set(verbs)


def words_of(situation: Situation, passed: tuple[str, ...] = ()) -> list[str]:
    advice = decide(situation)
    return [command.text for command in next_commands(advice, situation, given(passed, Preset("tiny", 2_600_000)))]


def test_the_settings_of_what_fits_are_in_the_command() -> None:
    for fit, said in ((SMALL_BATCH, "tuning=lora training.batch_size=2"), (SHARDED, "tuning=lora launch.processes=4")):
        train = next(text for text in words_of(S(rows=rows(), base=base(fit))) if " train " in text)
        assert said in train
    shorter = words_of(S(hours=2, rows=rows(), base=base(LORA, hours=5)))
    assert any("training.epochs=1" in text for text in shorter)
    assert not any("training.epochs" in text for text in words_of(S(hours=6, rows=rows(), base=base(LORA, hours=5))))


def test_a_base_that_cannot_be_trained_gets_no_command_to_train_it() -> None:
    for situation in (S(rows=rows(), base=base()), S(hours=0.1, rows=rows(), base=base(LORA))):
        advice = decide(situation)
        assert advice.tuning is None and "not with this base" in advice.sentence
        assert not any(" train " in text for text in words_of(situation, ("model=qwen3-32b",)))
        assert words_of(situation, ("model=qwen3-32b",))[-1] == "finetune choose data.train=rows.jsonl model=tiny"
        # a base is not proposed in its own place
        assert words_of(situation, ("model=tiny",))[-1].endswith("rows.jsonl model=tiny choose.memory=80")
        assert situation.base is not None
        small = replace(situation, base=replace(situation.base, parameters=2_000_000))  # nor a larger one
        assert "model=tiny" not in words_of(small, ("model=mini",))[-1]


def test_a_base_with_an_adapter_is_continued() -> None:
    adapted = replace(base(LORA), adapter=True)
    assert any("tuning.start=continue" in text for text in words_of(S(rows=rows(), base=adapted)))


def test_what_was_given_is_passed_on() -> None:
    passed = ("model=tiny", "data.columns.prompt=asked", "data.eval=held.jsonl", "evaluate.metric=f1")
    texts = words_of(S(rows=rows()), passed)
    train = next(text for text in texts if " train " in text)
    assert all(one in train for one in passed)
    check = next(text for text in texts if "data check" in text)
    assert "data.columns.prompt=asked" in check and "model" not in check


def test_bad_answers_of_pairs_are_never_trained_on() -> None:
    pairs = (Rows("pairs.jsonl", "pairs", 500, layout="prompt_completion"),)
    train = next(text for text in words_of(S(feedback="pairs", rows=pairs)) if " train " in text)
    assert "data.columns.completion=chosen" in train and "data.layout=prompt_completion" in train
    votes = next(text for text in words_of(S(feedback="thumbs", rows=rows("votes"))) if " train " in text)
    assert "data.train=rows.jsonl method=kto" in votes


def test_examples_are_trained_on_before_pairs() -> None:
    mixed = (*rows(), Rows("pairs.jsonl", "pairs", 500, layout="prompt_completion"))
    advice = decide(S(feedback="pairs", rows=mixed))
    assert [stage.have for stage in advice.stages] == [1500, 500]
    train = [text for text in words_of(S(feedback="pairs", rows=mixed)) if " train " in text]
    assert "data.train=rows.jsonl" in train[0] and "data.train=pairs.jsonl" not in train[0]
    assert "model.name=runs/sft tuning.start=continue data.train=pairs.jsonl method=dpo" in train[1]


def test_distillation_names_its_teacher() -> None:
    texts = words_of(S(teacher="org/large", cost=True, rows=rows()))
    assert any("method=distill method.teacher=org/large" in text for text in texts)


def test_missing_rows_are_counted() -> None:
    advice = decide(S(rows=rows(count=20)))
    assert advice.stages[0].missing == LEAST_ROWS - 20
    assert any(f"{LEAST_ROWS - 20} are missing" in reason for reason in advice.reasons)
    texts = words_of(S(rows=rows(count=20), teacher="tiny"))
    assert any(f"examples=rows.jsonl rows={LEAST_ROWS - 20} model.name=tiny" in text for text in texts)
    texts = words_of(S(rows=rows("prompts", 20), teacher="tiny"))
    assert any(f"prompts=rows.jsonl rows={LEAST_ROWS} model.name=tiny" in text for text in texts)


def test_evidence_is_told_with_its_interval() -> None:
    advice = decide(S(rows=rows(), target=0.8, evidence=scored((0.2, 0.15, 0.26), (0.9, 0.85, 0.94))))
    assert advice.rung == "few_shot"
    assert "with 3 examples in the prompt 90.0% (85.0% to 94.0%)" in advice.reasons[0]
    prompted = Evidence("exact", 200, (Measured("prompted", 0.2, (0.15, 0.26)),))
    advice = decide(S(rows=rows(), target=0.1, evidence=prompted))
    assert advice.rung == "prompt" and "with the best prompt 20.0%" in advice.reasons[0]


def test_after_measuring_the_reasons_name_what_was_measured() -> None:
    few = scored((0.2, 0.15, 0.26), (0.4, 0.33, 0.47))
    for target, said in ((0.8, "reaches 40.0%, and 80% is wanted"), (None, "reaches 40.0%: there is room above")):
        advice = decide(S(rows=rows(), target=target, evidence=few))
        assert advice.reasons[1] == f"no cheap rung is enough: the best rung, with 3 examples in the prompt, {said}"
    enough = decide(S(rows=rows(), target=0.8, evidence=scored((0.9, 0.85, 0.94))))
    assert "lower end of its interval, 85.0%, reaches the target of 80%" in enough.reasons[1]
    for advice in (enough, decide(S(rows=rows(), evidence=scored((0.99, 0.96, 1.0))))):
        assert not any("{" in line for line in (*advice.reasons, *advice.would_change))


def test_more_held_out_rows_are_asked_for_by_the_setting_that_gives_them() -> None:
    unsure = scored((0.82, 0.76, 0.87), n=60)
    for there, said in (
        (60, "(a larger data.eval_share, or more rows in data.eval)"),
        (900, "(a higher evaluate.rows)"),
    ):
        advice = decide(S(rows=rows(), target=0.8, evidence=replace(unsure, held_out=there)))
        assert advice.stop == "undecided" and advice.would_change[0].endswith(said)


def test_what_was_said_of_the_problem_is_asked_with_again() -> None:
    said = ("model=tiny", "choose.changes=weekly", "choose.rows=600", "choose.tried=[prompt]")
    measuring = next(text for text in words_of(S(rows=rows()), said) if text.endswith("--measure"))
    assert "choose.changes=weekly" in measuring and "choose.rows" not in measuring
    again = words_of(S(gap="knowledge", tried=("prompt",), rows=rows()), said)[-1]
    assert again.endswith("model=tiny choose.changes=weekly 'choose.tried=[prompt,retrieval]'")
    measured = S(target=0.8, rows=rows(), evidence=scored((0.82, 0.76, 0.87)))
    assert words_of(measured, ("model=tiny", "choose.target=0.8"))[-1].endswith("choose.target=0.8 --measure")


def test_measuring_is_proposed_once() -> None:
    assert any(text.endswith("--measure") for text in words_of(S(rows=rows())))
    measured = S(rows=rows(), evidence=scored((0.0, 0.0, 0.02)))
    assert not any("--measure" in text for text in words_of(measured))
    assert not any("--measure" in text for text in words_of(S(feedback="pairs", rows=rows("pairs"))))


def test_continued_pre_training_comes_with_its_warning() -> None:
    advice = decide(S(rows=rows("text"), tokens=Tokens(10**7)))
    assert any(reason.startswith("warning:") for reason in advice.reasons)


def test_the_decision_does_not_depend_on_anything_else() -> None:
    for case in CASES:
        assert decide(case.situation) == decide(replace(case.situation))


def fitting(machine: Machine, parameters: int = 8_000_000_000, longest: int = 512) -> dict[str, Fit]:
    from plans import composed, model
    from plans import rows as prepared

    data = replace(prepared(), train=replace(prepared().train, longest=longest))
    facts = Facts(model(parameters), data, machine, False)
    return {fit.tuning: fit for fit in fits_of(composed().config, facts)}


def test_memory_decides_between_tunings() -> None:
    from plans import CPU, GPU, OLD_GPU

    assert set(fitting(GPU, 5_000_000_000)) == {"lora", "qlora", "full"}
    assert set(fitting(GPU, 8_000_000_000)) == {"lora", "qlora"}
    assert fitting(GPU, 8_000_000_000)["lora"].settings == ()
    assert set(fitting(OLD_GPU, 8_000_000_000)) == {"qlora"}
    assert not fitting(replace(OLD_GPU, device_memory=2**30), 8_000_000_000)
    several = fitting(replace(OLD_GPU, devices=4), 8_000_000_000)
    assert several["sharded"].settings[-2:] == ("launch.processes=4", "parallel=fsdp")
    assert "sharded" not in fitting(replace(CPU, devices=4), 8_000_000_000)
    assert "qlora" not in fitting(replace(CPU, device="mps"), 1_000_000_000)


def test_a_smaller_batch_is_tried_before_another_tuning() -> None:
    from plans import GPU

    machine = replace(GPU, device_memory=24 * 2**30)
    short, long = (fitting(machine, longest=length)["lora"] for length in (256, 8192))
    assert short.settings == ()
    batch, accumulation = (int(one.partition("=")[2]) for one in long.settings)
    assert batch < 8 and batch * accumulation == 8


@pytest.mark.parametrize("fit", ["qlora", "lora", "sharded"])
def test_what_fits_is_what_the_plan_says(fit: str) -> None:
    """The estimate for a tuning is that of the plan for the settings that it comes with."""
    from plans import GPU, plan

    machine = replace(GPU, device_memory=24 * 2**30, devices=4)
    found = fitting(machine, longest=400)[fit]
    tuning = "lora" if fit == "sharded" else fit
    planned = plan(f"tuning={tuning}", *found.settings, machine=machine)
    assert found.gigabytes == planned.memory.total / 2**30
