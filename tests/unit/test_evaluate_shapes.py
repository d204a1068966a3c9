"""Pairs, votes and tasks on the rungs: what each is scored by, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np
import pytest
import torch
from contests import ANSWER, chat, contest
from finished import Runs, asked_row, finished_run, read_lines
from peft import LoraConfig, get_peft_model
from rows import WORDS, write_rows
from teacher_server import Endpoint, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config import EvaluateConfig, MethodConfig
from finetune.data.encode import Encoder
from finetune.data.rows import Pair, Row, Task, Vote
from finetune.errors import UserError
from finetune.evaluate.choice import Asking
from finetune.evaluate.climb import run_ladder
from finetune.evaluate.contents import EVALUATION
from finetune.evaluate.hearing import by_text
from finetune.evaluate.kept import Kept
from finetune.evaluate.ladder import Evaluation, answer_rows, as_json
from finetune.evaluate.local import Models, Opener, adapter_models
from finetune.evaluate.paid import Payment, opened
from finetune.evaluate.preference import by_length, ranked
from finetune.evaluate.questions import Speech, ask, asked, conversations, fingerprint
from finetune.evaluate.score import exact
from finetune.evaluate.settings import EvaluateSettings
from finetune.evaluate.shapes import Form
from finetune.evaluate.slices import slices
from finetune.evaluate.stats import paired_difference
from finetune.evaluate.subjects import find_subject
from finetune.evaluate.table import verdict_line
from finetune.lineage import LINEAGE
from finetune.log import log
from finetune.rewards.judge import build
from finetune.rewards.own import digests
from finetune.rewards.settings import Rewarded

Finetune = Callable[..., tuple[int, str, str]]
WORSE = "amber hy"  # shorter than the answer, so that a model that knows nothing finds it likelier


def pair(question: str, chosen: str = ANSWER, rejected: str = WORSE) -> Pair:
    return Pair(chat(question, chosen), chat(question, rejected))


def vote(question: str, liked: bool) -> Vote:
    # what is disliked differs, so that no prompt moves all of it alike
    return Vote(chat(question, ANSWER if liked else WORDS[len(question) * ord(question[-1]) % len(WORDS)]), liked)


def task(question: str, **columns: Any) -> Task:
    return Task(chat(question).messages[:-1], columns=columns)


PAIRS: list[Row] = [pair(f"fox {number}") for number in range(8)]
VOTES: list[Row] = [vote(f"fox {number}", number % 2 == 0) for number in range(12)]


@pytest.fixture(scope="module")
def speech(random_model_folder: Path) -> Speech:
    tokenizer = AutoTokenizer.from_pretrained(random_model_folder)
    return Speech(tokenizer, Encoder(tokenizer, "last", stop_ids=(2,)), 256)


@pytest.fixture(scope="module")
def models(random_model_folder: Path, speech: Speech, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A random model, and an adapter that really learned to give the answer that is chosen."""

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(random_model_folder, dtype=torch.float32)

    torch.manual_seed(0)
    model = get_peft_model(load(), LoraConfig(r=8, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for step in range(60):
        question = ask(chat(f"jugs {step % 12}"), speech)
        ids = torch.tensor([[*question.prompt, *question.reference_ids]])
        labels = ids.clone()
        labels[:, : len(question.prompt)] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return adapter_models(load, folder)


def never() -> Models:
    return Models(lambda: pytest.fail("opened"), lambda: pytest.fail("opened"))


def climbed(
    models: Models, speech: Speech, answers: Path, rows: list[Row], training: list[Row], form: Form, **changed: Any
) -> Evaluation:
    settings = EvaluateConfig(**{"few_shot": 2, "prompt_rows": 6, "max_new_tokens": 12, **changed})
    return run_ladder(
        contest(models, speech, answers),
        conversations(rows),
        conversations(training),
        settings,
        seed=1,
        choices=Kept.open(answers, "choices"),
        form=form,
    )


PAIRS_TO_LEARN: list[Row] = [pair(f"jugs {number}") for number in range(12)]
VOTES_TO_LEARN: list[Row] = [vote(f"jugs {number}", number % 2 == 0) for number in range(12)]


@pytest.fixture(scope="module")
def kept_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def of_pairs(models: Models, speech: Speech, kept_pairs: Path) -> Evaluation:
    return climbed(models, speech, kept_pairs, PAIRS, PAIRS_TO_LEARN, Form("pair"))


@pytest.fixture(scope="module")
def kept_votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("votes")


@pytest.fixture(scope="module")
def of_votes(models: Models, speech: Speech, kept_votes: Path) -> Evaluation:
    return climbed(models, speech, kept_votes, VOTES, VOTES_TO_LEARN, Form("vote"))


def scores(evaluation: Evaluation, metric: str | None = None) -> dict[str, float]:
    return {rung.name: fmean(rung.values(metric or evaluation.metric)) for rung in evaluation.rungs}


# Pairs


def test_who_learned_the_chosen_answers_prefers_them(of_pairs: Evaluation) -> None:
    result = as_json(of_pairs)
    assert result["metric"] == "preference"
    assert scores(of_pairs) == {"base": 0.0, "prompted": 0.0, "few_shot": 0.0, "tuned": 1.0}
    assert result["verdict"] == "better"
    assert result["comparisons"][0]["p"] == pytest.approx(2 / 2**8)  # as McNemar's exact test has it
    assert result["held_out"]["fingerprint"] == fingerprint(PAIRS) != fingerprint(conversations([PAIRS[0]]))
    # what is answered is scored beside it
    tuned = result["rungs"][3]["scores"]
    assert tuned["exact"] == 1.0 and set(tuned) > {"preference", "preference_mean", "exact", "f1"}


def test_a_preference_is_that_of_the_likelihoods(of_pairs: Evaluation, models: Models, speech: Speech) -> None:
    row, given = PAIRS[3], answer_rows(of_pairs)[3]
    assert isinstance(row, Pair)
    assert (given["reference"], given["rejected"]) == (ANSWER, WORSE)
    with models.tuned() as model:
        for name, side in (("nll", row.chosen), ("nll_rejected", row.rejected)):
            question = ask(side, speech)
            ids = torch.tensor([[*question.prompt, *question.reference_ids]])
            with torch.inference_mode():
                logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            wanted = -sum(
                float(logs[len(question.prompt) - 1 + at, token]) for at, token in enumerate(question.reference_ids)
            )
            assert given["answers"]["tuned"][name] == pytest.approx(wanted, rel=1e-3)
    models.release()


def test_each_rung_weighs_both_answers_under_its_own_prompt(of_pairs: Evaluation) -> None:
    weighed = [
        [(one.nll, worse.nll) for one, worse in zip(rung.likelihoods, rung.rejected, strict=True)]
        for rung in of_pairs.rungs
    ]
    assert all(one != other for one, other in combinations(weighed, 2))
    assert {len(rung.rejected) for rung in of_pairs.rungs} == {8}


def test_pairs_are_evaluated_again_without_a_model(of_pairs: Evaluation, speech: Speech, kept_pairs: Path) -> None:
    again = climbed(never(), speech, kept_pairs, PAIRS, PAIRS_TO_LEARN, Form("pair"))
    assert scores(again) == scores(of_pairs)
    by_token = climbed(never(), speech, kept_pairs, PAIRS, PAIRS_TO_LEARN, Form("pair"), metric="preference_mean")
    assert by_token.metric == "preference_mean"
    assert scores(by_token) == scores(of_pairs, "preference_mean")


def test_prompts_for_pairs_are_chosen_by_preference_on_training_pairs(of_pairs: Evaluation) -> None:
    tried = of_pairs.tried
    assert tried is not None
    assert tried["by"] == "preference" and len(tried["rows"]) == 6
    few_shot = next(rung for rung in of_pairs.rungs if rung.name == "few_shot")
    assert not {*few_shot.examples} & {*tried["rows"]}
    assert WORSE not in of_pairs.prompts[0]


def test_the_length_of_answers_is_scored_beside_the_rungs(of_pairs: Evaluation) -> None:
    result = as_json(of_pairs)
    length = result["length"]
    assert (length["rule"], length["score"], length["difference"]) == ("longer", 1.0, 0.0)
    assert length["verdict"] == "inconclusive"
    assert "; not shown to beat always taking the longer answer for the better one" in verdict_line(result)
    even = conversations([pair(f"fox {number}", rejected='{"dog": 3}') for number in range(8)])
    result = as_json(replace(of_pairs, length=by_length(even)))
    assert (result["length"]["score"], result["length"]["verdict"]) == (0.5, "better")
    assert "not shown to beat" not in verdict_line(result)
    shorter = by_length(conversations([pair("a", "b", "cd"), pair("b", "b", "cde"), pair("c", "bb", "cc")]))
    assert shorter is not None
    assert (shorter.rule, shorter.values) == ("shorter", (1.0, 1.0, 0.5))
    assert by_length([chat("a")]) is None


def test_pairs_are_parted_by_which_answer_is_longer() -> None:
    rows = [pair(f"q{n}", "a" * 20, "b" * (20 if n < 8 else 40)) for n in range(16)]
    rows += [pair(f"p{n}", "a" * 20, "b" * 19) for n in range(2)]
    rows += [pair(f"r{n}", "a" * 20, "b" * 5) for n in range(3)]
    chats = conversations(rows)
    shown, left_out = slices(chats, [row.messages[-1]["content"] for row in chats])
    parts = {one.name: len(one.rows) for one in (*shown, *left_out) if one.by == "answers"}
    assert parts == {"equally long": 10, "chosen is shorter": 8, "chosen is longer": 3}
    assert [one.name for one in left_out if one.by == "answers"] == ["chosen is longer"]


def test_a_pair_whose_answers_do_not_fit_is_refused(speech: Speech, tmp_path: Path) -> None:
    rows: list[Row] = [*PAIRS, pair("fox", rejected="box " * 300)]
    with pytest.raises(UserError) as caught:
        climbed(never(), speech, tmp_path, rows, PAIRS_TO_LEARN, Form("pair"))
    assert "held-out row 9" in str(caught.value)
    assert "longer than the context" in str(caught.value)


def test_examples_leave_room_for_both_answers(speech: Speech, tmp_path: Path) -> None:
    (row, *examples) = conversations([pair("what?", rejected="box " * 20), pair("one?"), pair("two?")])

    def shown(form: Form, context: int) -> int:
        engine = contest(never(), replace(speech, context=context), tmp_path).judged
        asking = Asking(engine, "preference", 4, tuple(examples), by_text(exact), form)
        ((prompt,), _) = asking.prompts([row], None, examples)
        return engine.shown(prompt).count(ANSWER)

    whole = len(speech.encoder.prompt_ids([*examples[0].messages, *examples[1].messages, *row.messages[:-1]]))
    assert shown(Form(), whole + 4) == 2
    assert shown(Form("pair"), whole + 4) < 2
    assert shown(Form("pair"), whole + 90) == 2


# Votes


def test_who_learned_the_liked_answers_ranks_them_above(of_votes: Evaluation) -> None:
    result = as_json(of_votes)
    assert result["metric"] == "vote"
    found = scores(of_votes)
    assert found["tuned"] == 1.0 and found["base"] == 0.5  # over the base nothing is likelier to the base
    assert [one["verdict"] for one in result["comparisons"] if one["against"] == "base"] == ["better"]
    assert set(result["rungs"][0]["scores"]) == {"vote", "vote_likelihood"}  # a disliked answer is no reference
    assert "classes" not in result["rungs"][0]
    assert result["slices"] == result["slices_left_out"] == []
    assert [row["liked"] for row in answer_rows(of_votes)] == [True, False] * 6


def test_a_vote_is_ranked_by_the_gain_over_the_bare_base(of_votes: Evaluation) -> None:
    rungs = {rung.name: rung for rung in of_votes.rungs}
    base, shown = ([one.nll / one.tokens for one in rungs[name].likelihoods] for name in ("base", "few_shot"))
    gains = [before - after for before, after in zip(base, shown, strict=True)]
    liked = [number % 2 == 0 for number in range(12)]
    right = [
        (a > b) + (a == b) / 2
        for (a, up), (b, down) in product(zip(gains, liked, strict=True), repeat=2)
        if up and not down
    ]
    assert scores(of_votes)["few_shot"] == pytest.approx(fmean(right))


def test_votes_need_the_base_even_where_it_is_no_rung(
    of_votes: Evaluation, models: Models, speech: Speech, tmp_path: Path, kept_votes: Path
) -> None:
    form, order = Form("vote"), list[str]()

    def noting(name: str, opener: Opener) -> Opener:
        def noted() -> Any:
            order.append(name)
            return opener()

        return noted

    noted = Models(noting("base", models.base), noting("tuned", models.tuned), models.release)
    fresh = climbed(noted, speech, tmp_path, VOTES, VOTES_TO_LEARN, form, rungs=["few_shot"])
    assert [rung.name for rung in fresh.rungs] == ["few_shot", "tuned"]
    none: list[Row] = []
    climbed(noted, speech, tmp_path / "other", VOTES, none, form)
    # one copy in memory is both, so the base is never opened while the tuned model is
    assert order == ["base", "tuned"] * 2
    again = climbed(never(), speech, kept_votes, VOTES, VOTES_TO_LEARN, form)
    assert scores(again) == scores(of_votes)
    assert scores(fresh)["tuned"] == scores(of_votes)["tuned"]


def test_only_liked_answers_are_shown_as_examples(of_votes: Evaluation) -> None:
    (few_shot,) = (rung for rung in of_votes.rungs if rung.name == "few_shot")
    assert len(few_shot.examples) == 2
    assert all(number % 2 == 1 for number in few_shot.examples)  # counted from 1


def test_a_prompt_is_not_chosen_on_votes_of_one_kind(models: Models, speech: Speech, tmp_path: Path) -> None:
    liked: list[Row] = [vote(f"jugs {number}", True) for number in range(12)]
    found = climbed(models, speech, tmp_path, VOTES, liked, Form("vote"))
    (left_out,) = found.left_out
    assert left_out == ("prompted", "there are too few training rows to choose a prompt on")


def test_parts_of_rows_in_a_ranking_add_up_to_it_and_vary_as_it_does() -> None:
    rng = np.random.default_rng(5)
    liked = [True] * 12 + [False] * 28
    areas, told, naive = list[float](), list[float](), list[float]()
    for _ in range(800):
        signal = rng.normal(size=40) + np.array(liked)
        parts = ranked(signal.tolist(), liked)
        up, down = signal[:12], signal[12:]
        area = float((up[:, None] > down[None, :]).mean())
        assert fmean(parts) == pytest.approx(area)
        areas.append(area)
        told.append(variance(parts) / 40)
        shares = [*(up[:, None] > down[None, :]).mean(1), *(up[:, None] > down[None, :]).mean(0)]
        naive.append(variance(map(float, shares)) / 40)
    assert 0.95 < fmean(told) / variance(areas) < 1.25  # with few rows a little too much rather than too little
    assert fmean(naive) < 0.5 * variance(areas)  # the plain shares would promise far too much


def test_equal_signals_rank_nothing() -> None:
    assert ranked([1.0] * 5, [True, False, True, False, False]) == (0.5,) * 5
    assert ranked([3, 1, 2], [True, False, False]) == (1.0, 1.0, 1.0)
    assert fmean(ranked([1, 2, 3], [True, False, False])) == 0.0


def test_two_models_that_rank_alike_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(7)
    liked, small = [True] * 20 + [False] * 20, 0
    for seed in range(120):
        first, second = (ranked((rng.normal(size=40) + np.array(liked)).tolist(), liked) for _ in range(2))
        low, high = paired_difference(first, second, seed=seed).interval
        small += not low <= 0 <= high
    assert small <= 14  # 6 of 120 are expected, and more than 14 in one of a thousand times


# Tasks


TASKS: list[Row] = [task(f"fox {number}", answer=ANSWER, level=number) for number in range(8)]
TO_SOLVE: list[Row] = [task(f"jugs {number}", answer=ANSWER, level=number) for number in range(12)]


def test_tasks_are_scored_by_the_rewards(models: Models, speech: Speech, tmp_path: Path) -> None:
    settings = Rewarded(rewards=["exact", "length"], reward_weights=[3.0, 1.0], least_words=4)
    with build(settings, ["answer"]) as rewards:
        form = Form("task", payment=Payment(rewards).ways, room=12)
        found = climbed(models, speech, tmp_path, TASKS, TO_SOLVE, form, max_new_tokens=None)
        again = climbed(never(), speech, tmp_path, TASKS, TO_SOLVE, form, max_new_tokens=None)
    result = as_json(found)
    assert result["metric"] == "reward" and result["max_new_tokens"] == 12
    tuned = result["rungs"][3]["scores"]
    # two words of the four that length wants
    assert (tuned["reward.exact"], tuned["reward.length"], tuned["reward"]) == (1.0, 0.5, 0.875)
    assert tuned["exact"] == 1.0  # the reference is there too
    assert result["rungs"][0]["scores"]["reward.exact"] == 0.0
    assert result["verdict"] == "better" and result["majority"] is None
    assert scores(again) == scores(found)
    assert answer_rows(found)[0]["answers"]["tuned"]["scores"]["reward"] == 0.875


def test_rewards_are_asked_once_for_each_rung(models: Models, speech: Speech, tmp_path: Path) -> None:
    source = "def one(completions):\n    open(r'{0}', 'a').write('x')\n    return [1.0] * len(completions)\n"
    (tmp_path / "reward.py").write_text(source.format(tmp_path / "calls"))
    with build(Rewarded(rewards=[f"{tmp_path}/reward.py:one", "length"], least_words=1), ["answer"]) as rewards:
        form = Form("task", payment=Payment(rewards).ways, room=12)
        found = climbed(models, speech, tmp_path, TASKS, [], form)
    assert len(found.rungs) == 2 and set(dict(found.rungs[0].scores)) > {"reward", "reward.one", "reward.length"}
    assert (tmp_path / "calls").read_text() == "xx"


def test_the_reference_of_a_task_is_in_the_column_that_is_named() -> None:
    row = task("fox", answer="one", solution={"b": 2})
    named = [asked(row), asked(row, "solution"), asked(row, "none")]
    assert [one.messages[-1]["content"] for one in named if one] == ["one", '{"b": 2}', ""]
    assert [Form("task").can_be_shown(one) for one in named if one] == [True, True, False]


def test_tasks_without_right_answers_are_scored_by_rewards_alone(
    models: Models, speech: Speech, tmp_path: Path
) -> None:
    rows: list[Row] = [task(f"fox {number}") for number in range(6)]
    with build(Rewarded(rewards=["json_valid"]), []) as rewards:
        form = Form("task", has_references=False, payment=Payment(rewards).ways, room=12)
        found = climbed(models, speech, tmp_path, rows, [task(f"jugs {n}") for n in range(12)], form)
    assert scores(found)["tuned"] == 1.0
    assert dict(found.left_out) == {
        "few_shot": "the rows have no right answers to show",
        "prompted": "no prompt is made where right answers are not known; give evaluate.prompts",
    }
    assert set(as_json(found)["rungs"][0]["scores"]) == {"reward"}
    assert as_json(found)["rungs"][0]["nll_per_token"] is None


def test_an_answer_of_which_no_reward_says_anything_counts_as_0(
    models: Models, speech: Speech, tmp_path: Path, warnings: list[str]
) -> None:
    rows: list[Row] = [*TASKS[:5], task("fox 9", answer=None)]
    with build(Rewarded(rewards=["exact"]), ["answer"]) as rewards:
        form = Form("task", has_references=False, payment=Payment(rewards).ways, room=12)
        found = climbed(models, speech, tmp_path, rows, [], form)
    tuned = next(rung for rung in found.rungs if rung.name == "tuned")
    assert tuned.values("reward") == (1.0,) * 5 + (0.0,)
    assert any("1 of 6 answers" in line for line in warnings)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is warned of."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


# Targets and files


@pytest.fixture
def make_run(tmp_path: Path, finetune: Finetune, random_model_folder: Path) -> Runs:
    return partial(finished_run, tmp_path, random_model_folder)


@pytest.fixture
def files(tmp_path: Path, finetune: Finetune) -> Path:
    """Rows of each shape, as users write them."""
    asks = [f"which otter is number {number}?" for number in range(24)]
    both = {"chosen": ANSWER, "rejected": WORSE}
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": one, **both} for one in asks[:12]])
    write_rows(tmp_path / "more.jsonl", [{"prompt": one, **both} for one in asks[12:]])
    voted = [(one, at % 2 == 0) for at, one in enumerate(asks[:20])]
    rows = [{"prompt": one, "completion": ANSWER if up else WORSE, "label": up} for one, up in voted]
    write_rows(tmp_path / "votes.jsonl", rows)
    write_rows(tmp_path / "few.jsonl", rows[:6])
    write_rows(tmp_path / "chats.jsonl", [asked_row(number) for number in range(40, 52)])
    write_rows(tmp_path / "tasks.jsonl", [{"prompt": one, "solution": ANSWER} for one in asks[:6]])
    return tmp_path


SMALL = ("evaluate.few_shot=2", "evaluate.prompt_rows=4", "evaluate.max_new_tokens=6", "evaluate.neutral_rows=4")


def refused(finetune: Finetune, *arguments: str) -> str:
    code, out, err = finetune("evaluate", *arguments)
    assert (code, out) == (2, ""), (out, err)
    return err


def test_an_adapter_is_compared_with_its_base_on_pairs(make_run: Runs, files: Path, finetune: Finetune) -> None:
    make_run("name=first")
    make_run("name=second", seed=1)
    given = ("data.eval=pairs.jsonl", "data.train=more.jsonl", *SMALL, "evaluate.strengths=[0,1]")
    code, out, err = finetune("evaluate", "runs/first/adapter", "runs/second/adapter", *given)
    assert code == 0, err
    assert "chosen preferred" in out and "by token" in out
    assert "always taking the" in out
    (folder,) = Path("runs/evaluations").iterdir()
    result = json.loads((folder / EVALUATION).read_text())
    assert [rung["name"] for rung in result["rungs"]] == [
        "base",
        "prompted",
        "few_shot",
        "tuned",
        "runs/second/adapter",
    ]
    assert result["settings"]["metric"] == "preference"
    ends = [point["score"] for point in result["strengths"]]
    assert ends == [result["rungs"][0]["score"], result["rungs"][3]["score"]]
    rows = read_lines(folder / "answers.jsonl")
    for row in rows:
        for given_by in row["answers"].values():
            wanted = float(given_by["nll"] < given_by["nll_rejected"])
            assert given_by["scores"]["preference"] == wanted
    page = (folder / "report.html").read_text()
    assert "<dt>rejected</dt>" in page and "prefers the" in page


def test_a_model_that_has_no_base_ranks_votes(files: Path, finetune: Finetune, random_model_folder: Path) -> None:
    code, out, err = finetune("evaluate", str(random_model_folder), "data.eval=votes.jsonl", *SMALL[:3])
    assert code == 0, err
    assert "no verdict" in out and "liked above disliked" in out


def test_runs_are_compared_on_the_preferences_that_are_stored(make_run: Runs, files: Path, finetune: Finetune) -> None:
    """What an evaluation of a run stores is read as any other is."""
    result = json.loads(_evaluated(finetune, make_run("name=first")))
    runs = [Path("runs/first"), Path("runs/second")]
    _evaluated(finetune, make_run("name=second", seed=1))
    for run in runs:
        (folder,) = (one for one in Path("runs/evaluations").iterdir() if run.name in _given(one))
        for name in ("answers.jsonl", EVALUATION):
            (run / name).write_bytes((folder / name).read_bytes())
        stored = json.loads((run / EVALUATION).read_text())
        (run / EVALUATION).write_text(json.dumps({**stored, "artefact": _artefact(run)}))
    code, out, err = finetune("runs", "compare", "first", "second", "--json")
    assert code == 0, err
    compared = json.loads(out)
    assert compared["metric"] == "preference"
    assert compared["scores"][0]["score"] == result["rungs"][-1]["score"]
    assert len(compared["pairs"]) == 1


def _evaluated(finetune: Finetune, run: Path) -> str:
    code, out, err = finetune(
        "evaluate", run / "adapter", "data.eval=pairs.jsonl", "evaluate.rungs=[base]", *SMALL, "--json"
    )
    assert code == 0, err
    return out


def _given(folder: Path) -> str:
    return str(json.loads((folder / EVALUATION).read_text())["targets"][0]["given"])


def _artefact(run: Path) -> str:
    from finetune.evaluate.contents import artefact_digest

    return artefact_digest(run)


def test_rows_of_another_shape_than_the_runs_are_refused(make_run: Runs, files: Path, finetune: Finetune) -> None:
    make_run()
    said = refused(finetune, "mine", "data.eval=pairs.jsonl")
    assert "pairs.jsonl" in said and "holds preference pairs" in said and "was trained on conversations" in said
    assert "holds votes" in refused(finetune, "mine", "data.eval=votes.jsonl")


def test_metrics_that_rows_cannot_have_are_refused(make_run: Runs, files: Path, finetune: Finetune) -> None:
    lone = str(make_run() / "adapter")
    said = refused(finetune, lone, "data.eval=chats.jsonl", "evaluate.metric=preference")
    assert "evaluate.metric=preference: is of preference pairs, and these rows are conversations" in said
    said = refused(finetune, lone, "data.eval=votes.jsonl", "evaluate.metric=exact")
    assert "evaluate.metric=exact: compares answers with a right one" in said
    said = refused(finetune, lone, "data.eval=few.jsonl")
    assert "3 of the rows are voted up and 3 down" in said
    said = refused(finetune, lone, "data.eval=pairs.jsonl", "evaluate.metric=reward")
    assert "is of tasks, and these rows are preference pairs" in said
    said = refused(finetune, lone, "data.eval=pairs.jsonl", "evaluate.metric=numeric")
    assert "does not end in a number" in said


def test_an_endpoint_tells_no_likelihoods_of_pairs(make_run: Runs, files: Path, finetune: Finetune) -> None:
    lone = str(make_run() / "adapter")
    with serving(Endpoint(answer=lambda messages: ANSWER)) as served:
        target = f"{served.url}#big"
        said = refused(finetune, lone, target, "data.eval=pairs.jsonl", *SMALL)
        assert "evaluate.metric=preference compares how likely answers are" in said and target in said
        assert served.requests == 0
        code, out, err = finetune(
            "evaluate", lone, target, "data.eval=pairs.jsonl", "evaluate.metric=exact", *SMALL, "--json"
        )
    assert code == 0, err
    rungs = {rung["name"]: rung for rung in json.loads(out)["rungs"]}
    assert rungs["big"]["score"] == 1.0
    assert "preference" not in rungs["big"]["scores"] and "preference" in rungs["tuned"]["scores"]


def test_pairs_that_were_trained_on_are_refused(make_run: Runs, files: Path, finetune: Finetune) -> None:
    lone = str(make_run() / "adapter")
    said = refused(finetune, lone, "data.eval=pairs.jsonl", "data.train=pairs.jsonl")
    assert "12 rows in all" in said


def test_tasks_are_scored_against_their_references(make_run: Runs, files: Path, finetune: Finetune) -> None:
    lone = str(make_run() / "adapter")
    given = ("data.eval=tasks.jsonl", "data.layout=prompt", *SMALL)
    code, out, err = finetune("evaluate", lone, *given, "evaluate.metric=f1", "--json")
    assert code == 0, err
    assert json.loads(out)["metric"] == "f1"
    said = refused(finetune, lone, *given, "evaluate.metric=reward")
    assert "no run is named that learned from rewards" in said


# The rewards of a run


@dataclass
class Learned(Rewarded, MethodConfig):
    """A method that learns from rewards."""


SOURCE = "def paid(completions):\n    return [len(text) / 2 for text in completions]\n"


def test_a_run_is_paid_as_it_was_in_training(make_run: Runs, files: Path, warnings: list[str]) -> None:
    (files / "reward.py").write_text(SOURCE)
    run_dir = make_run("name=paid")
    subject = find_subject("runs/paid", Path("runs"), EvaluateSettings().endpoint)
    assert subject.plan is not None
    method = Learned(rewards=["reward.py:paid"])
    plan = replace(subject.plan, config=replace(subject.plan.config, method=method))
    record = run_dir / LINEAGE
    record.write_text(json.dumps({"rewards": digests(method.rewards)}))
    rows = conversations(TASKS)
    with opened(plan, rows) as rewards:
        assert rewards.score(["a"], ["four"], {}).totals == (2.0,)
    assert warnings == []
    (files / "reward.py").write_text(SOURCE.replace("/ 2", "/ 4"))
    with opened(plan, rows) as rewards:
        assert rewards.score(["a"], ["four"], {}).totals == (1.0,)
    assert len(warnings) == 1 and "has changed since the run was trained" in warnings[0]
    record.unlink()
    with opened(plan, rows):
        assert "nothing shows" in warnings[1]
