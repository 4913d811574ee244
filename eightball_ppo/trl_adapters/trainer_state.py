"""State of TRL's PPO trainer, and of the reference's cache, that a resumed run must restore."""

from typing import Any

from eightball_ppo.runtime.atomic_io import nan_to_null
from eightball_ppo.trl_adapters.policy import ReferenceAdapter


class TrainerStateRestore:
    """TRL's `trainer.state`, loaded between `on_train_begin` of its loop and the first update.

    By then TRL has reset its state, but has read neither the number of updates nor the first batch.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Counters and log of the trainer."""
        names = ("global_step", "episode", "epoch", "max_steps", "log_history")
        return nan_to_null({name: getattr(self.trainer.state, name) for name in names})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the counters, and with them the number of updates left and the next batch."""
        vars(self.trainer.state).update(state)
        self.trainer.args.num_total_batches = state["max_steps"] - state["global_step"]
        self.trainer.dataloader.next_update = state["global_step"]


class ReferenceCacheState:
    """The reference's cached logits: computed again in another batch, their last digits may differ."""

    def __init__(self, reference: ReferenceAdapter):
        self.reference = reference

    def state_dict(self) -> dict[str, Any]:
        """The cache; empty before the first batch."""
        cached_N, logits_NK1 = self.reference.cached_N, self.reference.logits_NK1
        return {} if cached_N is None else {"cached_N": cached_N, "logits_NK1": logits_NK1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the cache on the reference's device."""
        device = next(self.reference.parameters()).device
        for name, value in state.items():
            setattr(self.reference, name, value.to(device))
