"""The state of a training as tensors and JSON values, from which it resumes to the last bit, and its two files.

A training is a list of (name, object) pairs. Each object has `state_dict()` and `load_state_dict()`: torch's schedulers
and GradScaler as they are, ours where the form must change. Their states are written as one safetensors file and one
JSON file; nothing is pickled, as transformers' and Accelerate's own functions would.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eightball_ppo.runtime.distributed import rank

FORMAT = 5
TRAINING = "training"  # the directory of a checkpoint that holds the state; the policy lies beside it
TENSORS, VALUES = "state.safetensors", "state.json"
StateDict = dict[str, Any]
"""Flat: tensors, and values that JSON holds."""


class Stateful(Protocol):
    """Something whose state a resumed training must restore."""

    def state_dict(self) -> StateDict:
        """The present state."""

    def load_state_dict(self, state: StateDict, /) -> Any:
        """Restores a state that `state_dict` returned."""


States = Sequence[tuple[str, Stateful]]
"""The parts of a training, by unique names, in the order of loading."""


class TrainableWeights:
    """The parameters of `model` that are trained; the frozen ones are loaded with the model."""

    def __init__(self, model: nn.Module):
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def state_dict(self) -> StateDict:
        """The parameters by name, not copied."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: StateDict) -> None:
        """Copies the values into the parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside Accelerate's wrapper, which has no hooks and a state of another form."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


class OptimizerState:
    """Moments, steps and learning rates of a torch optimizer, with flat keys."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = unwrap_optimizer(optimizer)

    def state_dict(self) -> StateDict:
        """Moments and steps as `INDEX.NAME`, and the parameter groups as `groups`."""
        state = self.optimizer.state_dict()
        moments = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
        return {**moments, "groups": state["param_groups"]}

    def load_state_dict(self, state: StateDict) -> None:
        """Restores moments, steps and groups."""
        moments: dict[int, StateDict] = {}
        for key, value in state.items():
            i, _, name = key.partition(".")
            if name:
                moments.setdefault(int(i), {})[name] = value.clone()  # into new memory, laid out as torch does
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})


class RNGState:
    """The random number generators of this process: torch's on the CPU and on its GPU, numpy's and Python's."""

    def state_dict(self) -> StateDict:
        """The states of all generators."""
        algorithm, keys, *rest = cast(Any, np.random.get_state())
        cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
        values = {"numpy": [algorithm, keys.tolist(), *rest], "python": random.getstate()}
        return {"torch": torch.get_rng_state(), **cuda, **values}

    def load_state_dict(self, state: StateDict) -> None:
        """Restores all generators."""
        torch.set_rng_state(state["torch"])
        np.random.set_state(state["numpy"])
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])


class PerRankState:
    """The state of an object that differs between ranks."""

    def __init__(self, stateful: Stateful):
        self.stateful = stateful

    def state_dict(self) -> StateDict:
        """The states of all ranks as `RANK.NAME`: a collective call. Tensors are moved to the CPU."""
        state = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in self.stateful.state_dict().items()}
        return {f"{i}.{k}": v for i, of_rank in enumerate(gather_object([state])) for k, v in of_rank.items()}

    def load_state_dict(self, state: StateDict) -> None:
        """Restores the state of this rank."""
        prefix = f"{rank()}."
        of_rank = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        self.stateful.load_state_dict(of_rank)


def trainer_states(trainer: Any) -> States:
    """The states that every trainer of transformers and TRL has, once its optimizer and scheduler exist.

    The generators come last, so that nothing loaded after them draws from them.
    """
    scaler = trainer.accelerator.scaler
    return [
        ("weights", TrainableWeights(trainer.accelerator.unwrap_model(trainer.model))),
        ("optimizer", OptimizerState(trainer.optimizer)),
        ("scheduler", trainer.lr_scheduler),
        *([] if scaler is None else [("scaler", scaler)]),
        ("rng", PerRankState(RNGState())),
    ]


def write_states(directory: Path, states: Mapping[str, StateDict], header: StateDict) -> None:
    """Writes the tensors of `states` to one file, and their JSON values with the fields of `header` to another."""
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
    """Loads each of `states`, in their order, from what `write_states` wrote."""
    values = read_header(directory)["states"]
    with safe_open(directory / TENSORS, framework="pt") as file:
        for name, stateful in states:
            keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118  it is no dict
            tensors = {key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys}
            stateful.load_state_dict({**values[name], **tensors})
