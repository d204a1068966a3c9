"""The configuration file that accelerate is given says everything, and accelerate reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from plans import GPU, plan

from finetune.launch_command import accelerate_config, rank_command, shown_command
from finetune.plan.text import describe

TWO_GPUS = replace(GPU, devices=2)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [((), "MULTI_GPU"), (("parallel=fsdp",), "FSDP"), (("parallel=zero3",), "DEEPSPEED")],
    ids=["ddp", "fsdp", "zero3"],
)
def test_accelerate_reads_the_whole_file(tmp_path: Path, overrides: tuple[str, ...], kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = accelerate_config(plan("launch.processes=2", "parallel.offload=true", *overrides, machine=TWO_GPUS)
                               if overrides else plan("launch.processes=2", machine=TWO_GPUS))  # fmt: skip
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(config))
    read = load_config_from_file(str(file))
    assert str(read.distributed_type).rpartition(".")[2] == kind
    assert (read.num_processes, read.mixed_precision, read.use_cpu) == (2, "bf16", False)
    if kind == "FSDP":
        assert read.fsdp_config["fsdp_offload_params"] is True and read.fsdp_config["fsdp_version"] == 2
    if kind == "DEEPSPEED":
        assert read.deepspeed_config["zero_stage"] == 3
        assert read.deepspeed_config["offload_optimizer_device"] == "cpu"


def test_a_given_port_is_used_and_else_a_free_one() -> None:
    given = plan("launch=accelerate", "launch.port=29611", machine=TWO_GPUS)
    assert accelerate_config(given)["main_process_port"] == 29611
    assert accelerate_config(plan("launch=accelerate", machine=TWO_GPUS))["main_process_port"] >= 1024


def test_the_shown_command_is_the_one_that_starts_the_ranks() -> None:
    made = plan("launch.processes=2", machine=TWO_GPUS)
    assert shown_command(made).split()[2:] == rank_command(made)[3:]


def test_the_plan_names_the_command_to_type_and_the_one_it_launches() -> None:
    text = describe(plan("launch.processes=2", machine=TWO_GPUS))
    assert "command        finetune train model.name=some/model" in text
    assert "launches       accelerate launch --config_file" in text
    assert "launches" not in describe(plan())
