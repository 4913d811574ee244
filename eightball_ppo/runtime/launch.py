"""Checks that a distributed launch started the processes it should, and that ranks agree at the end."""

import os
import sys
from datetime import timedelta
from typing import Any

from eightball_ppo.config.embedded import folder
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.runtime.distributed import join_processes, num_processes

SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def check_launch() -> None:
    """Raises InputError where the launcher did something else than it was asked for, without saying so.

    For more than one process on CPU, `accelerate launch` exports the address of the main process, and then starts one
    process a machine that knows of no other: each would do the complete job. Sharding on CPU is plain DDP (FSDP), or
    makes every process believe that it is the only one (DeepSpeed).
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    by_accelerate = "ACCELERATE_DYNAMO_MODE" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if by_accelerate and address is not None and num_processes() == 1:
        launcher = "torchrun --nproc_per_node 2"
        if address != "127.0.0.1":
            launcher = (
                "accelerate launch --multi_gpu --num_machines 2 --num_processes 2 --machine_rank RANK "
                f"--main_process_ip {address} --main_process_port {port}"
            )
        raise InputError(
            "accelerate launch was asked for several processes and started one that knows of no other; on CPU use: "
            f"ACCELERATE_USE_CPU=true {launcher} {sys.argv[0] or 'SCRIPT'} (docs/launching.md). If one is what you "
            "want: unset MASTER_ADDR"
        )
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true") and not _has_accelerator():
            raise InputError(
                f"{name} was asked for, and there is no GPU: on CPU it would not shard; launch with "
                f"{folder('recipes') / 'accelerate' / 'cpu_2proc.yaml'}"
            )


def mixed_precision() -> str:
    """What `accelerate launch --mixed_precision` was given: no, bf16, fp16 or fp8."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()


def require_one_precision() -> None:
    """Raises InputError under mixed precision, where answers would be sampled in one precision and trained in another.

    Accelerate applies the mixed precision to the forward passes of training alone: sampling, the reference and the
    rollout's values would be float32, and the first ratio would not be 1.
    """
    if mixed_precision() != "no":
        raise InputError(
            f"accelerate launch --mixed_precision {mixed_precision()}: answers would be sampled in float32 and trained "
            "in another precision; launch with --mixed_precision no, and pass --dtype bfloat16 (with --use_peft what "
            "trains stays float32)"
        )


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")


def init_process_group(timeout: int) -> None:
    """Returns once every process of the launch has joined.

    Args:
        timeout: Seconds to wait for the others, here and in every later collective call.

    Raises:
        InputError: A process is missing after `timeout`, or Accelerate counts other processes than the launcher.
    """
    if num_processes() == 1:
        return
    from torch import distributed

    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        counted = join_processes(timeout=timedelta(seconds=timeout))
        if counted == num_processes():
            distributed.barrier()  # NCCL connects at its first use, not before
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"not all {num_processes()} processes came to {address} within --ddp_timeout {timeout} s; start them all, "
            "and on several machines name the network in GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME "
            f"({str(error).splitlines()[0][:200]})"
        ) from None
    if counted != num_processes():
        raise InputError(
            f"{num_processes()} processes were launched and Accelerate counts {counted}; on CPU put "
            "ACCELERATE_USE_CPU=true in front of the command"
        )


def peer_failure(error: Exception) -> IncompleteError | None:
    """The user-facing error of a collective call that failed because another process died or is late; else None."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    dist_error = getattr(distributed, "DistError", None)
    of_network = (dist_error is not None and isinstance(error, dist_error)) or "gloo" in str(error).lower()
    if num_processes() == 1 or not isinstance(error, RuntimeError) or not of_network:
        return None
    return IncompleteError(
        f"rank {os.environ.get('RANK')} of {num_processes()}: another process of the launch died or was silent for "
        f"--ddp_timeout; saved checkpoints are kept ({str(error).splitlines()[0][:200]})"
    )


def require_equal_ranks(trainer: Any) -> None:
    """Raises RuntimeError unless all ranks end with the same bits in the model of `trainer`.

    Sharded models (FSDP, DeepSpeed) are not compared: each rank holds another part.
    """
    kind = str(trainer.accelerator.distributed_type).rpartition(".")[2]
    if num_processes() == 1 or kind in ("FSDP", "DEEPSPEED"):
        return
    import hashlib

    import torch
    from accelerate.utils import gather_object

    digest = hashlib.sha256()
    for parameter in trainer.model.parameters():
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    hashes = gather_object([digest.hexdigest()])
    if len(set(hashes)) > 1:
        listed = ", ".join(f"rank {rank} {value[:12]}" for rank, value in enumerate(hashes))
        raise RuntimeError(f"the processes ended with different weights ({listed}): this run is of no use")
