"""What a resumed PPO must find again of TRL's trainer, and of the reference that it asks."""

from typing import Any

from eightball_ppo.runtime.atomic_io import nan_to_null
from eightball_ppo.trl_adapters.policy import ReferenceAdapter


class TrainerStateRestore:
    """TRL's `trainer.state`, loaded between the `on_train_begin` of its loop and the first update.

    By then TRL has reset its state, and it has not yet read how many updates to make, nor asked for the first batch.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        names = ("global_step", "episode", "epoch", "max_steps", "log_history")
        return nan_to_null({name: getattr(self.trainer.state, name) for name in names})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self.trainer.state).update(state)
        self.trainer.args.num_total_batches = state["max_steps"] - state["global_step"]
        self.trainer.dataloader.next_update = state["global_step"]


class ReferenceCacheState:
    """The logits that the reference remembers: asked in another batch, a question's last digits may be others."""

    def __init__(self, reference: ReferenceAdapter):
        self.reference = reference

    def state_dict(self) -> dict[str, Any]:
        known_N, logits_NK1 = self.reference.known_N, self.reference.logits_NK1
        return {} if known_N is None else {"known_N": known_N, "logits_NK1": logits_NK1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = next(self.reference.parameters()).device
        for name, value in state.items():
            setattr(self.reference, name, value.to(device))
