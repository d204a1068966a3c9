"""Models on a hub: the real client against a server on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, hub

from finetune.model_files import inspect_model
from finetune.model_files.config import config_faults
from finetune.model_files.hub import is_hub_id

# The client reads its address and cache when it is imported, so each setting needs its own process.
CLIENT = """
import dataclasses, json, sys
from finetune.errors import UserError
from finetune.model import fetched_folder
from finetune.model_files import inspect_model
answers = {}
for name, revision, fetch in json.loads(sys.argv[1]):
    try:
        facts = inspect_model(name, revision)
        answers[name + "@" + str(revision)] = dataclasses.asdict(facts)
        if fetch:
            answers["fetched"] = str(fetched_folder(facts))
    except UserError as error:
        answers[name + "@" + str(revision)] = str(error)
answers["torch"] = "torch" in sys.modules
print(json.dumps(answers))
"""
SECRET = "hf_neverShowThisToken"


def ask(questions: list[tuple[str, str | None, bool]], home: Path, **environment: str) -> dict[str, Any]:
    inherited = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    settings = {**inherited, "HF_HOME": str(home), "HF_TOKEN": SECRET, **environment}
    result = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(questions)],
        capture_output=True,
        text=True,
        env=settings,
        cwd=home,
    )
    assert result.returncode == 0, result.stderr
    assert SECRET not in result.stdout + result.stderr
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def answers(random_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client says of repositories good and bad, first with a network, then without one."""
    home, pickled = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("pickled")
    shutil.copy(random_model_folder / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    (home / "modle").mkdir()
    repositories = {"org/model": random_model_folder, "org/pickled": pickled}
    refusals = {
        "org/gated": (403, "GatedRepo"),
        "org/private": (401, "RepoNotFound"),
        "org/broken": (403, ""),
    }
    questions: list[tuple[str, str | None, bool]] = [
        ("org/model", None, False),
        ("org/model", "nosuch", False),
        ("org/absent", None, False),
        ("org/gated", None, False),
        ("org/private", None, False),
        ("org/broken", None, False),
        ("org/pickled", None, False),
        ("model", None, False),
    ]
    with hub(repositories, refusals) as address:
        online = ask(questions, home, HF_ENDPOINT=address)
        early = ask([("org/model", None, False)], home, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
        fetched = ask([("org/model", None, True)], home, HF_ENDPOINT=address)
    offline = ask([("org/model", None, True), ("org/absent", None, False)], home, HF_HUB_OFFLINE="1")
    return {"online": online, "early": early, "fetched": fetched, "offline": offline}


def test_facts_come_without_the_weights(answers: dict[str, Any], random_model_folder: Path) -> None:
    facts, local = answers["online"]["org/model@None"], inspect_model(str(random_model_folder))
    assert facts["parameters"] == local.parameters
    assert {name: tuple(shape) for name, shape in facts["linear_shapes"].items()} == local.linear_shapes
    assert (facts["hub_id"], facts["revision"]) == ("org/model", COMMIT)
    assert answers["online"]["torch"] is False


def test_weights_are_fetched_when_they_are_loaded(answers: dict[str, Any]) -> None:
    folder = Path(answers["fetched"]["fetched"])
    assert (folder / "model.safetensors").exists()
    assert folder.name == COMMIT


def test_a_cached_model_needs_no_network(answers: dict[str, Any]) -> None:
    assert answers["offline"]["org/model@None"]["revision"] == COMMIT
    assert answers["offline"]["fetched"] == answers["fetched"]["fetched"]


@pytest.mark.parametrize(
    "when, name, what, mend",
    [
        ("online", "org/model@nosuch", "has no such revision", "check model.revision"),
        ("online", "org/absent@None", "no such repository on the hub", "check the spelling"),
        ("online", "org/gated@None", "is gated", "set HF_TOKEN in the environment"),
        ("online", "org/private@None", "no such repository on the hub", "HF_TOKEN in the environment"),
        ("online", "org/broken@None", "answered with error 403", "to a token that can read it"),
        ("online", "org/pickled@None", "has no safetensors weights", "convert the weights"),
        ("online", "model@None", "no such repository on the hub", "did you mean the folder modle?"),
        (
            "early",
            "org/model@None",
            "model.safetensors is not in the local cache",
            "where there is a network",
        ),
        ("offline", "org/absent@None", "config.json is not in the local cache", "where there is a network"),
    ],
)
def test_each_refusal_of_the_hub_is_told_apart(
    when: str, name: str, what: str, mend: str, answers: dict[str, Any]
) -> None:
    found = answers[when][name]
    assert isinstance(found, str), found
    assert found.startswith(f"error: {name.split('@')[0]}") and "\n" not in found
    assert what in found and mend in found.rpartition("; ")[2]


@pytest.mark.parametrize(
    "name, possible", [("Qwen/Qwen3-0.6B", True), ("gpt2", True), ("a/b/c", False), ("../x", False)]
)
def test_only_hub_names_are_asked_for(name: str, possible: bool) -> None:
    assert is_hub_id(name) is possible


@pytest.mark.parametrize("revision, pinned", [(None, False), ("main", False), (COMMIT[:8], False), (COMMIT, True)])
def test_code_of_a_repository_runs_only_at_a_full_commit(revision: str | None, pinned: bool, tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "code.Mine"}}
    faults = config_faults(tmp_path, config, COMMIT, revision, trust_remote_code=True)
    assert (faults == []) is pinned
    assert pinned or (faults[0].where == "model.revision" and f"model.revision={COMMIT}" in faults[0].mend)
