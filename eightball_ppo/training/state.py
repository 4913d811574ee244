"""The state of a training as tensors and JSON values: what it takes to resume it to the last bit, and its two files.

A training is a list of (name, object) pairs. Each object has `state_dict()` and `load_state_dict()`: torch's schedulers
and GradScaler as they are, ours where the form must change. Their states are written as one safetensors file and one
JSON file; nothing is pickled.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eightball_ppo.runtime.distributed import rank

FORMAT = 4
TRAINING = "training"  # the directory of a checkpoint that holds the state; the policy stands beside it
TENSORS, VALUES = "state.safetensors", "state.json"
StateDict = dict[str, Any]
"""Flat: tensors, and values that JSON holds."""


class Stateful(Protocol):
    """Something that a resumed training must find as it was."""

    def state_dict(self) -> StateDict: ...

    def load_state_dict(self, state: StateDict, /) -> Any: ...


States = Sequence[tuple[str, Stateful]]
"""What a training consists of, by unique names, in the order of loading."""


class TrainableWeights:
    """The parameters that are trained; the frozen ones are loaded with the model."""

    def __init__(self, model: nn.Module):
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def state_dict(self) -> StateDict:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: StateDict) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer out of Accelerate's wrapper, which has no hooks and a state of another form."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


class OptimizerState:
    """Moments, steps and learning rates of a torch optimizer, with flat keys."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = unwrap_optimizer(optimizer)

    def state_dict(self) -> StateDict:
        state = self.optimizer.state_dict()
        moments = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
        return {**moments, "groups": state["param_groups"]}

    def load_state_dict(self, state: StateDict) -> None:
        moments: dict[int, StateDict] = {}
        for key, value in state.items():
            if key != "groups":
                i, _, name = key.partition(".")
                moments.setdefault(int(i), {})[name] = value.clone()  # in memory of its own, laid out as torch does
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})


class RNGState:
    """The random number generators of this process: torch's on the CPU and on its GPU, numpy's and Python's."""

    def state_dict(self) -> StateDict:
        numpy_state: Any = np.random.get_state()
        algorithm, keys, *rest = numpy_state
        state = {
            "torch": torch.get_rng_state(),
            "numpy": [algorithm, keys.tolist(), *rest],
            "python": random.getstate(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: StateDict) -> None:
        torch.set_rng_state(state["torch"])
        np.random.set_state(state["numpy"])
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])


class PerRankState:
    """The state of an object that each process has its own of."""

    def __init__(self, stateful: Stateful):
        self.stateful = stateful

    def state_dict(self) -> StateDict:
        """A collective call: every process must make it. Tensors come on the CPU: no process opens another's card."""
        own = self.stateful.state_dict()
        own = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in own.items()}
        return {f"{i}.{name}": value for i, state in enumerate(gather_object([own])) for name, value in state.items()}

    def load_state_dict(self, state: StateDict) -> None:
        prefix = f"{rank()}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        self.stateful.load_state_dict(own)


def trainer_states(trainer: Any) -> States:
    """What every trainer of transformers and TRL carries, once its optimizer and scheduler exist; the generators come
    last, so that nothing loaded after them draws from them."""
    scaler = trainer.accelerator.scaler
    return [
        ("weights", TrainableWeights(trainer.accelerator.unwrap_model(trainer.model))),
        ("optimizer", OptimizerState(trainer.optimizer)),
        ("scheduler", trainer.lr_scheduler),
        *([] if scaler is None else [("scaler", scaler)]),
        ("rng", PerRankState(RNGState())),
    ]


def write_states(directory: Path, states: Mapping[str, StateDict], header: StateDict) -> None:
    """Write what the `states` hold, and beside their JSON values the fields of `header`."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, StateDict] = {name: {} for name in states}
    for name, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.cpu().contiguous()
            else:
                values[name][key] = value
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / TENSORS)
    (directory / VALUES).write_text(json.dumps({**header, "states": values}) + "\n", encoding="utf-8")


def read_header(directory: Path) -> StateDict:
    """The fields of the header, and under "states" the JSON values of each state."""
    return json.loads((directory / VALUES).read_text(encoding="utf-8"))


def load_states(directory: Path, states: States) -> None:
    """Load each of `states`, one after the other in their order, from what `write_states` wrote."""
    values = read_header(directory)["states"]
    with safe_open(directory / TENSORS, framework="pt") as file:
        for name, stateful in states:
            keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118  it is no dict
            tensors = {key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys}
            stateful.load_state_dict({**values[name], **tensors})
