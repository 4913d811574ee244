"""Guards of PPO: a training that diverges stops at once and says where to look; one past `--stop_kl` ends early."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import TrainingDivergedError
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime.atomic_io import write_directory
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.run import BEST, Run
from eightball_ppo.training.early_stop import PlateauCallback
from eightball_ppo.training.scores import RolloutRecorder
from eightball_ppo.training.state import StateDict, TrainableWeights
from eightball_ppo.training.supervised import MetricsCallback

CHECKED_METRICS = ("loss/policy_avg", "loss/value_avg", "objective/rlhf_reward", "exact/objective")


class EarlyStop(Exception):  # noqa: N818  nothing went wrong
    """Training ends early, as a success."""


class KLGuardCallback(TrainerCallback):
    """Stops training where a logged number is not finite or the KL passes `max_kl`, and notes that it passed `stop_kl`.

    The KL and the objective are the exact ones on the training questions of `metrics`, after which it must be called.
    With `max_kl` the weights of the policy with the best objective are kept in memory, and saved when training stops.

    Args:
        config: `stop_kl` and `max_kl`, in nats.
        run: Its directory gets the best policy.
        policy: The model that is trained.
        tokenizer: Saved with the policy.
        metrics: Holds the latest row of metrics.
        recorder: Makes the error where a number is not finite.
    """

    def __init__(
        self,
        config: PPOConfig,
        run: Run,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        metrics: MetricsCallback,
        recorder: RolloutRecorder,
    ):
        self.config, self.run, self.policy, self.tokenizer = config, run, policy, tokenizer
        self.metrics, self.recorder = metrics, recorder
        self._weights = TrainableWeights(policy)
        self._best: StateDict = {}
        self._best_objective, self._best_update = -math.inf, 0
        self.passed_stop_kl = False

    def state_dict(self) -> StateDict:
        """The best policy so far, and whether the KL passed `stop_kl`."""
        objective = self._best_objective if self._best else None
        progress = {"best_update": self._best_update, "passed_stop_kl": self.passed_stop_kl}
        return {**self._best, "best_objective": objective, **progress}

    def load_state_dict(self, state: StateDict) -> None:
        """Restores what `state_dict` returned."""
        self._best = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if self._best:
            self._best_objective = state["best_objective"]
        self._best_update, self.passed_stop_kl = state["best_update"], state["passed_stop_kl"]

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises TrainingDivergedError if one of `CHECKED_METRICS` is not finite."""
        for name in CHECKED_METRICS:
            value = self.metrics.latest.get(name)
            if value is not None and not math.isfinite(value):
                raise self.recorder.fault(name)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises TrainingDivergedError if the KL passed `max_kl`."""
        stop_kl, max_kl = self.config.stop_kl, self.config.max_kl
        if stop_kl is None and max_kl is None:
            return
        kl, objective = self.metrics.latest["exact/kl"], self.metrics.latest["exact/objective"]
        passed = 2 if max_kl is not None and kl > max_kl else int(stop_kl is not None and kl > stop_kl)
        passed = max(gather_object([passed]))  # the last digit may differ between ranks on different hardware
        if passed == 2:
            raise self._diverged(kl, state.global_step)
        if max_kl is not None and objective > self._best_objective:
            self._best_objective, self._best_update = objective, state.global_step
            self._best = {name: weight.cpu().clone() for name, weight in self._weights.state_dict().items()}
        self.passed_stop_kl = passed == 1

    def _diverged(self, kl: float, update: int) -> TrainingDivergedError:
        what = f"the exact KL is {kl:.3g} after update {update}, above --max_kl {self.config.max_kl:g}"
        if not self._best:
            return TrainingDivergedError(f"{what}, from the first update on; lower --learning_rate, or raise --kl_coef")
        directory = self.run.path / BEST
        if is_main_process():
            self._weights.load_state_dict(self._best)
            write_directory(directory, lambda path: save_policy(self.policy, self.tokenizer, path))
        return TrainingDivergedError(
            f"{what}; the policy of update {self._best_update}, with the best objective on the training questions "
            f"({self._best_objective:.4g}), is in {directory}; lower --learning_rate, or raise --kl_coef"
        )


class EarlyStopCallback(TrainerCallback):
    """Ends training once `guard` noted that the KL passed `stop_kl`, or `plateau` that nothing is left to gain.

    It must be called last: a signal during that update gets its checkpoint first, and a training that resumes from
    there ends at once.
    """

    def __init__(self, guard: KLGuardCallback, plateau: PlateauCallback):
        self.guard, self.plateau = guard, plateau

    @property
    def stopped_by(self) -> str | None:
        """The option that stopped the training; None if none did."""
        return "stop_kl" if self.guard.passed_stop_kl else self.plateau.stopped_by

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises EarlyStop if an option stopped the training."""
        if self.stopped_by is not None:
            raise EarlyStop

    on_step_end = on_train_begin


@contextmanager
def allow_early_stop(trainer: Any) -> Iterator[None]:
    """Context of `train()` that ends it at `EarlyStop`, as TRL's loop would at its own end."""
    try:
        yield
    except EarlyStop:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
