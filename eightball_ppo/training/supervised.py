"""Fits a classifier to labels with `transformers.Trainer`: the supervised half of every stage."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from eightball_ppo.config.fields import require
from eightball_ppo.config.training import SupervisedConfig
from eightball_ppo.errors import InputError, TrainingDivergedError
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import rank
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.runtime.run import Run
from eightball_ppo.runtime.signals import defer_signals
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.training.early_stop import ForecastCallback
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.training.length_sampler import LengthBucketSampler
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.trackers import project, resolve_report_to, run_name, tracker_session
from eightball_ppo.training.trainer import ResumableTrainer

# of TRL, in units of the score
SCORE_METRICS = (
    *("objective/scores", "objective/rlhf_reward", "objective/non_score_reward", "reward", "reward_std"),
    *("rewards/reward/mean", "rewards/reward/std"),
)
Measure = Callable[[], dict[str, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K], targets [B]) -> a scalar to minimise."""


class MetricsCallback(TrainerCallback):
    """Writes every logged step as a row of metrics.jsonl: the trainer's own metrics, and those of two functions.

    `latest` is the last row. It is called before all other callbacks (`replace_progress`), so that the trackers get
    every metric.

    Args:
        run: Its metrics.jsonl gets the rows.
        stage: Name of this training in the rows.
        measure: Returns metrics that are computed every `every` steps and at the last one.
        every: Steps between two calls of `measure`.
        extra: Returns metrics that are computed at every logged step.
        unit: What the scores of training were divided by; the rows have them in the grader's unit.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        measure: Measure = dict,
        every: int = 1,
        extra: Measure = dict,
        unit: float = 1.0,
    ):
        self.unit = unit
        self.run, self.stage, self.measure, self.every, self.extra = run, stage, measure, every, extra
        self.latest: dict[str, Any] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Writes the row, and adds its metrics to `logs`."""
        due = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        measured = {**(self.measure() if due else {}), **self.extra()}
        if logs is not None and self.unit != 1:
            logs.update({name: logs[name] * self.unit for name in SCORE_METRICS if name in logs})
        self.latest = {"stage": self.stage, "step": state.global_step, **(logs or {}), **measured}
        self.run.log(self.latest)
        if logs is not None:
            logs.update({name: value for name, value in measured.items() if value is not None})


class QuietProgress(ProgressCallback):
    """transformers' progress bar, named after the stage, with the latest metrics instead of a line per logged step."""

    def __init__(self, stage: str):
        super().__init__()
        self.stage = stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens the bar on the main process."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.stage)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Shows loss, score and KL."""
        names = ("loss", "objective/scores", "objective/kl")
        shown = {name.removeprefix("objective/"): f"{logs[name]:.3g}" for name in names if logs and name in logs}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)


def replace_progress(trainer: Trainer, stage: str, disable_tqdm: bool) -> None:
    """Puts `QuietProgress` in place of transformers' bars, and `MetricsCallback` in front of the trackers."""
    trainer.callback_handler.callbacks.sort(key=lambda callback: not isinstance(callback, MetricsCallback))
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not disable_tqdm:
        trainer.add_callback(QuietProgress(stage))


def train_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: TokenTable,
    label_ids: Sequence[int],
    config: SupervisedConfig,
    run: Run,
    stage: str,
    measure: Measure = dict,
    loss: Loss | None = None,
    by_length: bool = False,
    resume: ResumeContext | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> int:
    """Trains `model` in place on questions and their labels; returns the number of optimizer steps.

    Args:
        model: The classifier.
        tokenizer: Its tokenizer.
        table: Tokens, or features, of N questions.
        label_ids: N label ids, or whatever `loss` takes as targets, such as rows of a table.
        config: Hyperparameters.
        run: Its metrics.jsonl gets a row per logged step.
        stage: Name of this training in logs and messages.
        measure: Returns more metrics for each row.
        loss: The loss to minimise; None is the model's own, cross-entropy.
        by_length: Whether to batch questions of similar length, which saves time where the model is big.
        resume: Where to resume from; with it, checkpoints are written and a signal stops training.
        callbacks: Further callbacks.

    Raises:
        TrainingDivergedError, TrainingInterrupted: A gradient was not finite; a signal stopped training.
        InputError: No rows, or a tracker or scheduler that transformers does not know.
    """
    require(len(table) > 0, f"{stage}: no questions to train on")
    label_N, length_N = torch.tensor(label_ids), table.length_N

    def collate(rows: list[int]) -> dict[str, Tensor]:
        rows_B = torch.tensor(rows)  # a batch is as wide as its longest question
        return {**table.rows(rows_B, int(length_N[rows_B].max())), "labels": label_N[rows_B]}

    watch = GradNormCallback(None, lambda what: _fault(what, trainer, tokenizer, run))
    trainer = ResumableTrainer(
        model,
        _arguments(config, run, stage, len(table)),
        data_collator=collate,
        train_dataset=range(len(table)),
        callbacks=[MetricsCallback(run, stage, measure), watch, ForecastCallback("steps"), *callbacks],
        compute_loss_func=None if loss is None else lambda outputs, labels, **_: loss(outputs.logits, labels),
    )
    trainer.sampler = LengthBucketSampler(length_N, trainer.args.train_batch_size, config.seed) if by_length else None
    replace_progress(trainer, stage, config.disable_tqdm)
    if resume is not None:
        trainer.enable_checkpoints(CheckpointWriter(config, run, model, tokenizer, resume, stage))
    with tracker_session(trainer, run.path, stage), nullcontext() if resume is None else defer_signals():
        trainer.train_or_resume()
    require_equal_ranks(trainer)
    model.eval()
    return trainer.state.global_step


def _fault(what: str, trainer: ResumableTrainer, tokenizer: PreTrainedTokenizerBase, run: Run) -> TrainingDivergedError:
    """The error to raise where `what` is not finite; each rank has written its batch by then."""
    file, step = run.path / f"not-finite-{rank()}.json", trainer.state.global_step + 1
    batch = {name: tensor.tolist() for name, tensor in trainer.last_inputs.items()}
    questions = tokenizer.batch_decode(batch.get("input_ids", []), skip_special_tokens=True)
    write_json(file, {"what": what, "step": step, "questions": questions, **batch})
    return TrainingDivergedError(f"{what} is not finite in step {step}; its batch is in {file}; lower --learning_rate")


def _arguments(config: SupervisedConfig, run: Run, stage: str, num_rows: int) -> TrainingArguments:
    """The arguments of transformers' Trainer: our options, and those that have one value.

    Raises:
        InputError: A tracker or scheduler that transformers does not know.
    """
    assert config.num_train_epochs is not None
    steps = num_rows * config.num_train_epochs / config.per_device_train_batch_size
    name = run.target.name if stage == run.method else f"{run.target.name} {stage}"
    try:
        arguments = TrainingArguments(
            output_dir=str(run.path),
            **{name: getattr(config, name) for name in SupervisedConfig.__annotations__},  # all of them transformers'
            optim="adamw_torch_fused",  # an eighth of the plain one's time for a big model
            seed=config.seed,
            save_strategy="no",
            average_tokens_across_devices=False,  # the loss is a mean already
            logging_steps=max(1, round(steps / 50)),
            report_to=resolve_report_to(config.report_to),
            run_name=run_name(name, config.report_to),
            project=project(),
            disable_tqdm=config.disable_tqdm,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # a process uses one device, or DataParallel would widen the batch
    except ValueError as error:
        raise InputError(f"{stage}: {str(error).splitlines()[0]}") from None
    return arguments
