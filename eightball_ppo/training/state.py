"""What a training is made of at a moment, as tensors and plain values: enough to go on with it to the last bit.

A part of it is anything with `state()`, a flat dict of tensors and of what JSON holds, and `restore(state)`. Parts are
written as one safetensors file and one JSON file; nothing is pickled.
"""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eightball_ppo.runtime.distributed import from_every_process

TENSORS, VALUES = "state.safetensors", "state.json"
State = dict[str, Any]


class Part(Protocol):
    """Something that a training must find again as it was."""

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


class Weights:
    """The parameters that learn; the others are those of the reference, which are read anew."""

    def __init__(self, model: nn.Module):
        self.learning = {name: own for name, own in model.named_parameters() if own.requires_grad}

    def state(self) -> State:
        return {name: own.detach() for name, own in self.learning.items()}

    @torch.no_grad()
    def restore(self, state: State) -> None:
        for name, own in self.learning.items():
            own.copy_(state[name])


def bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, out of Accelerate's wrapper, which has no hooks and a state of another form."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


class OptimizerState:
    """Moments, steps and rates of a torch optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = bare(optimizer)

    def state(self) -> State:
        content = self.optimizer.state_dict()
        moments = {f"{i}.{name}": value for i, own in content["state"].items() for name, value in own.items()}
        return {**moments, "groups": content["param_groups"]}

    def restore(self, state: State) -> None:
        moments: dict[int, dict[str, Any]] = {}
        for key, value in state.items():
            if key != "groups":
                i, _, name = key.partition(".")
                moments.setdefault(int(i), {})[name] = value.clone()  # in memory of its own, laid out as torch does
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})


class SchedulerState:
    """Where a learning-rate schedule of torch has come to."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler.scheduler if isinstance(scheduler, AcceleratedScheduler) else scheduler

    def state(self) -> State:
        return self.scheduler.state_dict()

    def restore(self, state: State) -> None:
        self.scheduler.load_state_dict(state)


class ScalerState:
    """By how much the gradients of float16 are scaled at the moment."""

    def __init__(self, scaler: torch.amp.GradScaler):
        self.scaler = scaler

    def state(self) -> State:
        return self.scaler.state_dict()

    def restore(self, state: State) -> None:
        self.scaler.load_state_dict(state)


class Randomness:
    """The generators of torch (of the CPU and of this process's GPU), numpy and python, one set for every process."""

    def state(self) -> State:
        name, keys, *rest = np.random.get_state(legacy=True)
        version, internal, gauss = random.getstate()
        own: State = {
            "torch": torch.get_rng_state(),
            "numpy": torch.from_numpy(np.array(keys).astype(np.int64)),
            "numpy_rest": [str(name), *(value.item() if isinstance(value, np.generic) else value for value in rest)],
            "python": torch.tensor(internal),
            "python_rest": [version, gauss],
        }
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.get_rng_state()
        return own

    def restore(self, state: State) -> None:
        torch.set_rng_state(state["torch"])
        name, *rest = state["numpy_rest"]
        np.random.set_state((name, state["numpy"].numpy().astype(np.uint32), *rest))
        version, gauss = state["python_rest"]
        random.setstate((version, tuple(state["python"].tolist()), gauss))
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])


class OfEveryRank:
    """A part that each process has its own of."""

    def __init__(self, part: Part, rank: int):
        self.part, self.rank = part, rank

    def state(self) -> State:
        """A collective call: every process must make it. Tensors come on the CPU: no process opens another's card."""
        mine = {name: own.cpu() if isinstance(own, Tensor) else own for name, own in self.part.state().items()}
        return {
            f"{rank}.{name}": value for rank, own in enumerate(from_every_process(mine)) for name, value in own.items()
        }

    def restore(self, state: State) -> None:
        mine = f"{self.rank}."
        self.part.restore({key.removeprefix(mine): value for key, value in state.items() if key.startswith(mine)})


def write_state(directory: Path, parts: Mapping[str, State], more: State) -> None:
    """The states of `parts`, and beside their plain values whatever JSON holds of `more`."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, State] = {}
    for part, state in parts.items():
        values[part] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{part}/{name}"] = value.cpu().contiguous()
            else:
                values[part][name] = value
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / TENSORS)
    (directory / VALUES).write_text(json.dumps({**more, "parts": values}) + "\n", encoding="utf-8")


def read_values(directory: Path) -> State:
    """What `write_state` wrote as JSON: `more`, and the plain values of the parts under "parts"."""
    return json.loads((directory / VALUES).read_text(encoding="utf-8"))


def read_parts(directory: Path, wanted: Iterable[str]) -> dict[str, State]:
    """The states of the parts named in `wanted`."""
    values = read_values(directory)["parts"]
    parts: dict[str, State] = {name: dict(values[name]) for name in wanted}
    with safe_open(directory / TENSORS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  it is no dict
            part, _, name = key.partition("/")
            if part in parts:
                parts[part][name] = file.get_tensor(key)
    return parts
