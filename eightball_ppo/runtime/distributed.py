"""The processes of one launch: which one prints and writes, how the others wait for it and get what it made."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any, TypeVar

from eightball_ppo.errors import IncompleteError, InputError

T = TypeVar("T")
MAX_POLL_INTERVAL = 10.0  # seconds between two signs of life while the main process works and the others wait


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
    """Return once every process of the launch is here; at once if there is one, or none has met the others yet."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def join_processes(**kwargs: Any) -> int:
    """Meet the other processes, as the trainers would do a little later; how many there are for Accelerate.

    `kwargs` go to `init_process_group`. Where there is nothing but CPUs, Accelerate is told so.
    """
    import torch
    from accelerate import PartialState

    if not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else it would not look for others, and count one
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return int(PartialState(cpu=on_cpu, **kwargs).num_processes)


def destroy_process_group() -> None:
    """Leave the other processes, as the last act. Else threads that still listen may end Python by an abort."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def broadcast_from_main(work: Callable[[], T], ddp_timeout: int) -> T:
    """What `work` returns on the main process, on every process; the others do nothing but wait for it, however long it
    takes, as long as there is a sign of life of everybody within `ddp_timeout` seconds.

    Raises:
        InputError, IncompleteError: on every process, if `work` raises it on the main one.
        RuntimeError: on those that remain, if a process died or is silent; on the main one once `work` is done.
    """
    if num_processes() == 1:
        return work()
    from torch import distributed

    join_processes()
    group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=ddp_timeout))
    outcome: list[Any] = [None, None]
    done = Event()
    if is_main_process():
        with ThreadPoolExecutor(1) as executor:
            signs = executor.submit(_heartbeat, group, done, min(MAX_POLL_INTERVAL, ddp_timeout / 4))
            try:
                outcome[0] = work()
            except (InputError, IncompleteError) as error:
                outcome[1] = error
            finally:
                done.set()
            signs.result()
    else:
        _heartbeat(group, done, 0)
    distributed.broadcast_object_list(outcome, src=0, group=group)
    if outcome[1] is not None:
        outcome[1].relayed = not is_main_process()
        raise outcome[1]
    return outcome[0]


def _heartbeat(group: Any, done: Event, pause: float) -> None:
    """Meet the other processes again and again, `pause` seconds apart, until one of them comes and is `done`."""
    import torch
    from torch import distributed

    finished = torch.zeros(1, dtype=torch.uint8)
    while not finished.item():
        finished.fill_(done.is_set())
        distributed.all_reduce(finished, distributed.ReduceOp.MAX, group)
        done.wait(0 if finished.item() else pause)


def all_reduce_max(value: int) -> int:
    """The largest of the numbers that the processes of the launch come with."""
    if num_processes() == 1:
        return value
    import torch
    from accelerate import PartialState
    from torch import distributed

    own = torch.tensor(value, device=PartialState().device)
    distributed.all_reduce(own, op=distributed.ReduceOp.MAX)
    return int(own)


def all_gather_object(own: T) -> list[T]:
    """What each process of the launch comes with, in the order of their ranks."""
    if num_processes() == 1:
        return [own]
    from torch import distributed

    everybody: list[Any] = [None] * num_processes()
    distributed.all_gather_object(everybody, own)
    return everybody
