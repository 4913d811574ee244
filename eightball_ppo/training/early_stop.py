"""Ends a training that has nothing left to gain, and forecasts how long one takes."""

import logging
import math
import time
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from eightball_ppo.config.graded import EarlyStopConfig
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.training.state import StateDict, Stateful

logger = logging.getLogger(__name__)

FORECAST_AFTER = 5.0  # seconds; a training that ends sooner needs no forecast
REASONS = (None, "patience", "stop_optimum_fraction")


class PlateauCallback(TrainerCallback):
    """Stops training at `stop_optimum_fraction`, or after `patience` measurements without a rise.

    It reads `exact/optimum_fraction`, which `MetricsCallback` adds to the logs before.

    Args:
        config: The two options.

    Attributes:
        stopped_by: The option that stopped the training; None if none did.
    """

    def __init__(self, config: EarlyStopConfig):
        self.limit, self.patience = config.stop_optimum_fraction or 1.0, config.patience
        self.stopped_by: str | None = None
        self._best, self._since = -math.inf, 0

    @property
    def active(self) -> bool:
        """Whether it may stop a training."""
        return self.limit < 1.0 or self.patience is not None

    def state_dict(self) -> StateDict:
        """The best measurement, those since, and the reason of the stop."""
        best = None if self._best == -math.inf else self._best
        return {"best": best, "since": self._since, "stopped_by": self.stopped_by}

    def load_state_dict(self, state: StateDict) -> None:
        """Restores what `state_dict` returned."""
        self._best = -math.inf if state["best"] is None else state["best"]
        self._since, self.stopped_by = state["since"], state["stopped_by"]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends a training at once that resumes after its last update."""
        control.should_training_stop |= self.stopped_by is not None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Asks for the end of training where a limit is reached."""
        fraction = (logs or {}).get("exact/optimum_fraction")
        if fraction is None or not self.active or self.stopped_by is not None:
            return
        self._since = 0 if fraction > self._best else self._since + 1
        self._best = max(self._best, fraction)
        reason = int(self.patience is not None and self._since >= self.patience)
        reason = 2 if self.limit < 1.0 and fraction >= self.limit else reason
        reason = max(gather_object([reason]))  # the last digit may differ between ranks on different hardware
        self.stopped_by = REASONS[reason]
        if self.stopped_by is None or state.global_step >= state.max_steps:
            self.stopped_by = None
            return
        control.should_training_stop = True
        if is_main_process():
            logger.info("stopped by --%s: optimum_fraction %.3f on the training questions", REASONS[reason], fraction)


def early_stop_states(plateau: PlateauCallback) -> list[tuple[str, Stateful]]:
    """The state for checkpoints; nothing where it cannot stop the training."""
    return [("early_stop", plateau)] if plateau.active else []


class ForecastCallback(TrainerCallback):
    """Logs once how many updates are left and how long they take, after the first ones.

    Args:
        unit: What an update is called.
        steps_per_update: Optimizer steps that the trainer counts for one.
    """

    def __init__(self, unit: str = "updates", steps_per_update: int = 1):
        self.unit, self.steps_per_update = unit, steps_per_update
        self._first: tuple[float, int] | None = None
        self._said = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measures from the end of the first update, which is slower than the others."""
        update, rest = divmod(state.global_step, self.steps_per_update)
        if rest or self._said or not is_main_process():
            return
        now = time.monotonic()
        if self._first is None:
            self._first = now, update
            return
        seconds, left = now - self._first[0], state.max_steps // self.steps_per_update - update
        if seconds >= FORECAST_AFTER:
            self._said = True
            if left:
                duration = format_duration(seconds / (update - self._first[1]) * left)
                logger.info("%d %s left, about %s", left, self.unit, duration)


def format_duration(seconds: float) -> str:
    """A duration in the largest unit that gives at least 1: "40 s", "4 min", "2.5 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
