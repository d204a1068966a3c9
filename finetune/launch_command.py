"""The commands and the configuration file that start the processes of a run."""

from __future__ import annotations

import shlex
import socket
import sys
from typing import Any

from finetune.config import AccelerateLaunch, FsdpParallel, Zero3Parallel
from finetune.plan import RunPlan


def rank_command(plan: RunPlan) -> list[str]:
    """The command that starts the ranks of a plan."""
    config = f"{plan.run_dir}/accelerate.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    return [*accelerate, "-m", "finetune.train", "--run-dir", plan.run_dir]


def shown_command(plan: RunPlan) -> str:
    """The command that the launching process starts, once it has written what the ranks need."""
    return shlex.join(["accelerate", "launch", *rank_command(plan)[3:]])


def accelerate_config(plan: RunPlan) -> dict[str, Any]:
    """The configuration file of accelerate, complete, so that none of its own defaults or files take part."""
    launch_config, parallel = plan.config.launch, plan.config.parallel
    port = launch_config.port if isinstance(launch_config, AccelerateLaunch) else None
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_process_ip": "127.0.0.1",
        "main_process_port": port or free_port(),
        "main_training_function": "main",
        "mixed_precision": {"fp32": "no"}.get(plan.resolved.precision, plan.resolved.precision),
        "num_machines": 1,
        "num_processes": plan.batch.processes,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
    }
    if isinstance(parallel, FsdpParallel):
        config["distributed_type"] = "FSDP"
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_offload_params": parallel.offload,
            "fsdp_cpu_ram_efficient_loading": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
        }
    if isinstance(parallel, Zero3Parallel):
        device = "cpu" if parallel.offload else "none"
        config["distributed_type"] = "DEEPSPEED"
        config["deepspeed_config"] = {
            "zero_stage": 3,
            "zero3_init_flag": False,
            "zero3_save_16bit_model": True,
            "offload_optimizer_device": device,
            "offload_param_device": device,
            "gradient_accumulation_steps": plan.batch.accumulation,
            "gradient_clipping": plan.config.training.max_grad_norm,
        }
    return config


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
