"""The processes of one launch: which one prints and writes, and how the others wait for its result."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any, TypeVar

from eightball_ppo.errors import IncompleteError, InputError

T = TypeVar("T")
MAX_HEARTBEAT_INTERVAL = 10.0  # seconds


def rank() -> int:
    """The number of this process among those of its launch."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """True on the one process of a launch that prints and writes."""
    return rank() == 0


def num_processes() -> int:
    """Processes of this launch, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_everyone() -> None:
    """A barrier of all processes; returns at once where there is no process group."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def join_processes(**kwargs: Any) -> int:
    """Creates Accelerate's process group, as the trainers would later; tells Accelerate where there are only CPUs.

    Args:
        kwargs: For `torch.distributed.init_process_group`.

    Returns:
        The number of processes that Accelerate counts.
    """
    import torch
    from accelerate import PartialState

    if not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else it would not look for others, and count one
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return int(PartialState(cpu=on_cpu, **kwargs).num_processes)


def destroy_process_group() -> None:
    """Leave the process group, as the last act: threads that still listen could abort Python at its exit."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def broadcast_from_main(fn: Callable[[], T], ddp_timeout: int) -> T:
    """Runs `fn` on rank 0 and broadcasts its result. A heartbeat keeps waiting ranks from hitting `ddp_timeout`.

    Args:
        fn: Called on rank 0 only, however long it takes.
        ddp_timeout: Seconds without a heartbeat after which the other ranks give up.

    Returns:
        What `fn` returned, on every rank.

    Raises:
        InputError, IncompleteError: On every rank, if `fn` raises it.
        RuntimeError: A process died or is silent; rank 0 raises it once `fn` is done.
    """
    if num_processes() == 1:
        return fn()
    from torch import distributed

    join_processes()
    group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=ddp_timeout))
    result_and_error: list[Any] = [None, None]
    done = Event()
    if is_main_process():
        with ThreadPoolExecutor(1) as executor:
            heartbeat = executor.submit(_heartbeat, group, done, min(MAX_HEARTBEAT_INTERVAL, ddp_timeout / 4))
            try:
                result_and_error[0] = fn()
            except (InputError, IncompleteError) as error:
                result_and_error[1] = error
            finally:
                done.set()
            heartbeat.result()
    else:
        _heartbeat(group, done, 0)
    distributed.broadcast_object_list(result_and_error, src=0, group=group)  # Accelerate's knows no group of its own
    result, user_error = result_and_error
    if user_error is not None:
        user_error.relayed = not is_main_process()
        raise user_error
    return result


def _heartbeat(group: Any, done: Event, interval: float) -> None:
    """All-reduces a flag every `interval` seconds until `done` is set on one of the ranks."""
    import torch
    from torch import distributed

    finished = torch.zeros(1, dtype=torch.uint8)
    while not finished.item():
        finished.fill_(done.is_set())
        distributed.all_reduce(finished, distributed.ReduceOp.MAX, group)
        done.wait(0 if finished.item() else interval)
