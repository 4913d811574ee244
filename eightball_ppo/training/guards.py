"""Guards: a training that goes wrong stops at once and says where to look; one that went far enough ends."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import TrainingDivergedError
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime.atomic_io import write_directory, write_json
from eightball_ppo.runtime.distributed import is_main_process, rank
from eightball_ppo.runtime.run import BEST, Run
from eightball_ppo.training.state import StateDict, TrainableWeights
from eightball_ppo.training.supervised import MetricsCallback
from eightball_ppo.trl_adapters.policy import PromptClassifier, Scores

CHECKED_METRICS = ("loss/policy_avg", "loss/value_avg", "objective/rlhf_reward", "exact/objective")
NAN_HINT = "lower --learning_rate; PPO also takes --max_grad_norm 1"


class EarlyStop(Exception):  # noqa: N818  nothing went wrong
    """`--stop_kl` was passed: training ends, as a success."""


class LastBatchRecorder(nn.Module):
    """Returns what `scores` returns, and remembers the answers that were scored last, to write them to a file when
    something is not finite.

    Args:
        scores: the scores of sampled answers.
        policy: read for the logits in the file.
        questions, labels: texts of the rows and names of the actions.
        run: its directory gets the file.
    """

    def __init__(
        self,
        scores: Scores,
        policy: PromptClassifier,
        questions: Sequence[str],
        labels: Sequence[str],
        run: Run,
    ):
        super().__init__()
        self.scores = scores
        self.questions, self.labels, self.run = questions, labels, run
        self._policy = (policy,)  # no submodule: the reward model is moved and counted by the trainer
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None
        self.updates = 0

    def get_extra_state(self) -> StateDict:
        return {"updates": self.updates}

    def set_extra_state(self, state: StateDict) -> None:
        self.updates = state["updates"]

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        score_B = self.scores(rows_B, actions_B)
        self._batch = rows_B, actions_B, score_B
        self.updates += 1
        if not torch.isfinite(score_B).all():
            raise self.fault("a score")
        return score_B

    def fault(self, what: str) -> TrainingDivergedError:
        """What to raise where `what` is not finite; the batch has been written by then, by each process its own."""
        file = self.run.path / f"not-finite-{rank()}.json"
        write_json(file, {"what": what, "update": self.updates, "answers": self._answers()})
        return TrainingDivergedError(
            f"{what} is not finite in update {self.updates}; its batch is in {file}; {NAN_HINT}"
        )

    @torch.no_grad()
    def _answers(self) -> list[dict[str, Any]]:
        if self._batch is None:
            return []
        rows_B, actions_B, score_B = self._batch
        (policy,) = self._policy
        device = next(policy.parameters()).device
        logits_BK = policy.logits_BK(policy.reader.ids.question_ids(rows_B.to(device)).unsqueeze(1))
        columns = (rows_B.tolist(), actions_B.tolist(), score_B.tolist(), logits_BK.tolist())
        return [
            {
                "row": row,
                "question": self.questions[row],
                "answer": self.labels[action],
                "score": score,
                "logits": logits_K,
            }
            for row, action, score, logits_K in zip(*columns, strict=True)
        ]


class KLGuardCallback(TrainerCallback):
    """Stops where a logged number is not finite and at `max_kl`, and sees when `stop_kl` is passed; called after
    `metrics`.

    The KL and the objective are the exact ones on the training questions that are watched. With `max_kl` the weights of
    the policy with the best objective are kept in memory.
    """

    def __init__(
        self,
        config: PPOConfig,
        run: Run,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        metrics: MetricsCallback,
        recorder: LastBatchRecorder,
    ):
        self.config, self.run, self.policy, self.tokenizer = config, run, policy, tokenizer
        self.metrics, self.recorder = metrics, recorder
        self._weights = TrainableWeights(policy)
        self._best: StateDict = {}
        self._best_objective, self._best_update = -math.inf, 0
        self.far_enough = False

    def state_dict(self) -> StateDict:
        return {
            **self._best,
            "best_objective": self._best_objective if self._best else None,
            "best_update": self._best_update,
            "far_enough": self.far_enough,
        }

    def load_state_dict(self, state: StateDict) -> None:
        self._best = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if self._best:
            self._best_objective = state["best_objective"]
        self._best_update, self.far_enough = state["best_update"], state["far_enough"]

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name in CHECKED_METRICS:
            value = self.metrics.latest.get(name)
            if value is not None and not math.isfinite(value):
                raise self.recorder.fault(name)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        target, most = self.config.stop_kl, self.config.max_kl
        if target is None and most is None:
            return
        kl, objective = self.metrics.latest["exact/kl"], self.metrics.latest["exact/objective"]
        verdict = 2 if most is not None and kl > most else 1 if target is not None and kl > target else 0
        verdict = max(gather_object([verdict]))  # on another kind of machine the last digit may be another
        if verdict == 2:
            raise self._given_up(kl, state.global_step)
        if most is not None and objective > self._best_objective:
            self._best_objective, self._best_update = objective, state.global_step
            self._best = {name: weight.cpu().clone() for name, weight in self._weights.state_dict().items()}
        self.far_enough = verdict == 1

    def _given_up(self, kl: float, update: int) -> TrainingDivergedError:
        said = f"the exact KL is {kl:.3g} after update {update}, above --max_kl {self.config.max_kl:g}"
        if not self._best:
            return TrainingDivergedError(f"{said}, from the first update on; lower --learning_rate, or raise --kl_coef")
        directory: Path = self.run.path / BEST
        if is_main_process():
            self._weights.load_state_dict(self._best)
            write_directory(directory, lambda growing: save_policy(self.policy, self.tokenizer, growing))
        return TrainingDivergedError(
            f"{said}; the policy of update {self._best_update}, with the best objective on the training questions "
            f"({self._best_objective:.4g}), is in {directory}; lower --learning_rate, or raise --kl_coef"
        )


class EarlyStopCallback(TrainerCallback):
    """Ends the training where `guard` saw that it went far enough. Called after all others: a signal that came in that
    update gets its checkpoint first, and a training that resumes from there ends at once."""

    def __init__(self, guard: KLGuardCallback):
        self.guard = guard

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.guard.far_enough:
            raise EarlyStop

    on_step_end = on_train_begin


@contextmanager
def allow_early_stop(trainer: Any) -> Iterator[None]:
    """Around `train()`: ends it where `EarlyStop` says so, as TRL's loop would at its own end."""
    try:
        yield
    except EarlyStop:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
