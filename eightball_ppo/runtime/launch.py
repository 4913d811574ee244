"""What a launcher promised and what it did: several processes that know each other, meet in time and end alike."""

import os
import sys
from datetime import timedelta
from typing import Any

from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.runtime.distributed import join_processes, num_processes

SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def check_launch() -> None:
    """Raises InputError where the launcher did in silence something else than it was asked for.

    For more than one process on CPU, `accelerate launch` exports the address to meet at, and then starts one process
    a machine that knows of no other: each would take itself for the whole job. Sharding on CPU is plain DDP (FSDP), or
    tells every process that it is the only one (DeepSpeed).
    """
    environment = os.environ
    port = environment.get("MASTER_PORT")
    by_accelerate = "ACCELERATE_DYNAMO_MODE" in environment and "TORCHELASTIC_RUN_ID" not in environment
    if by_accelerate and "MASTER_ADDR" in environment and num_processes() == 1:
        script, address = sys.argv[0] or "SCRIPT", environment["MASTER_ADDR"]
        command = f"ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 {script}"
        if address != "127.0.0.1":
            command = (
                "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_machines 2 --num_processes 2 "
                f"--machine_rank RANK --main_process_ip {address} --main_process_port {port} {script}"
            )
        raise InputError(
            "accelerate launch was asked for several processes and started one that knows of no other; on CPU use: "
            f"{command} (docs/launching.md). If one is what you want: unset MASTER_ADDR"
        )
    for variable, name in SHARDING.items():
        if environment.get(variable, "").lower() in ("1", "true") and not _has_accelerator():
            raise InputError(
                f"{name} was asked for, and there is no GPU: on CPU it is not what it says; launch with "
                "recipes/accelerate/cpu_2proc.yaml"
            )


def mixed_precision() -> str:
    """What `accelerate launch --mixed_precision` asked for: no, bf16, fp16 or fp8."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()


def require_one_precision() -> None:
    """Raises InputError where answers would be sampled in one precision and learned from in another.

    Accelerate computes the passes that are learned from in the mixed precision, and no others: answers, the reference
    and the rollout's values would be float32, and the first ratio not 1.
    """
    if mixed_precision() != "no":
        raise InputError(
            f"accelerate launch --mixed_precision {mixed_precision()}: answers would be sampled in float32 and learned "
            "from in another precision; launch with --mixed_precision no, and pass --dtype bfloat16 (with --use_peft "
            "what trains stays float32)"
        )


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")


def init_process_group(seconds: int) -> None:
    """Return once every process of the launch is here; no later wait for one of them takes longer than `seconds`.

    Raises:
        InputError: somebody is missing after `seconds`, or the launch counts otherwise than Accelerate does.
    """
    if num_processes() == 1:
        return
    from torch import distributed

    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        counted = join_processes(timeout=timedelta(seconds=seconds))
        if counted == num_processes():
            distributed.barrier()  # NCCL meets at its first use, not before
    except (RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0][:200]
        raise InputError(
            f"not all {num_processes()} processes came to {address} within --ddp_timeout {seconds} s; "
            f"start them all, and on several machines name the network in GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME "
            f"({why})"
        ) from None
    if counted != num_processes():
        raise InputError(
            f"{num_processes()} processes were launched and Accelerate counts {counted}; on CPU put "
            "ACCELERATE_USE_CPU=true in front of the command"
        )


def peer_failure(error: Exception) -> IncompleteError | None:
    """What to say where `error` is a collective that failed since another process died or is late; else None."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    known = getattr(distributed, "DistError", None)
    of_network = (known is not None and isinstance(error, known)) or "gloo" in str(error).lower()
    if num_processes() == 1 or not isinstance(error, RuntimeError) or not of_network:
        return None
    return IncompleteError(
        f"rank {os.environ.get('RANK')} of {num_processes()}: another process of the launch died or was silent for "
        f"--ddp_timeout; checkpoints that were saved stay ({str(error).splitlines()[0][:200]})"
    )


def require_equal_ranks(trainer: Any) -> None:
    """Raises RuntimeError unless all processes hold the same bits in the model that `trainer` has trained.

    Where every process holds a part of its own (FSDP, DeepSpeed) there is nothing to compare.
    """
    kind = str(trainer.accelerator.distributed_type).rpartition(".")[2]
    if num_processes() == 1 or kind in ("FSDP", "DEEPSPEED"):
        return
    import hashlib

    import torch
    from torch import distributed

    digest = hashlib.sha256()
    for parameter in trainer.model.parameters():
        bits = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(bits.numpy().tobytes())
    hashes: list[Any] = [None] * num_processes()
    distributed.all_gather_object(hashes, digest.hexdigest())
    if len(set(hashes)) > 1:
        told = ", ".join(f"rank {rank} {own[:12]}" for rank, own in enumerate(hashes))
        raise RuntimeError(f"the processes ended with different weights ({told}): this run is of no use")
