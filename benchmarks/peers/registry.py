"""The peers, their packages, and their names in tables."""

import dataclasses
import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .task import Peer


@dataclass(frozen=True)
class Known:
    """A peer: its name in tables, its class, and the package that it needs, if any."""

    title: str
    module: str
    class_name: str
    package: str | None = None


PEERS = {
    "ours": Known("ours", "ours", "Ours"),
    "ours_exact": Known("ours, `--baseline exact`", "ours", "OursExact"),
    "naive_trl": Known("naive TRL", "naive_trl", "NaiveTRL"),
    "sb3": Known("stable-baselines3", "sb3", "StableBaselines", "stable_baselines3"),
    "torchrl": Known("torchrl", "torchrl_peer", "TorchRL", "torchrl"),
    "bare": Known("bare loop (nn.MultiheadAttention)", "bare", "Bare"),
    "bare_tricks": Known("bare loop, same tricks", "bare_tricks", "BareTricks"),
}


def missing(name: str) -> str | None:
    """The reason why the peer cannot run here, or None."""
    package = PEERS[name].package
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed; pip install -e '.[bench]'"
    if name == "ours_exact":
        from eightball_ppo.config.methods import PPOConfig

        if "baseline" not in {field.name for field in dataclasses.fields(PPOConfig)}:
            return "this version has no --baseline"
    return None


def peer(name: str) -> "type[Peer]":
    """The class of a peer."""
    known = PEERS[name]
    return getattr(importlib.import_module(f".{known.module}", __package__), known.class_name)
