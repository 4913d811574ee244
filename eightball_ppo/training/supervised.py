"""Fit a classifier to labels with `transformers.Trainer`: the supervised half of every stage."""

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
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_callback import PrinterCallback

from eightball_ppo.config.training import SupervisedConfig
from eightball_ppo.errors import InputError, TrainingDivergedError
from eightball_ppo.models.tokenization import max_input_length, token_table
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import rank
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.runtime.run import Run
from eightball_ppo.runtime.signals import defer_signals
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.training.like_lengths import LikeLengths
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.trackers import project, run_name, tracker_session
from eightball_ppo.training.trainer import ResumableTrainer

Measure = Callable[[], dict[str, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K], what stands for labels [B]) -> a number to minimise."""


def no_metrics() -> dict[str, Any]:
    """The measure of a stage that has nothing to add to its trainer's own metrics."""
    return {}


class MetricsCallback(TrainerCallback):
    """Every logged step as a row of metrics.jsonl: what the trainer logs, and beside it what `measure()` returns, at
    every `every`-th step and at the last, and what `beside()` returns, at all. `latest` is the last row.

    Called before all others, as `replace_progress` sees to, so that the trackers get what was measured, too.
    """

    def __init__(
        self, run: Run, stage: str, measure: Measure = no_metrics, every: int = 1, beside: Measure = no_metrics
    ):
        self.run = run
        self.stage = stage
        self.measure = measure
        self.every, self.beside = every, beside
        self.latest: dict[str, Any] = {}

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        due = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        measured = {**(self.measure() if due else {}), **self.beside()}
        self.latest = {"stage": self.stage, "step": state.global_step, **(logs or {}), **measured}
        self.run.log(self.latest)
        if logs is not None:
            logs.update({name: value for name, value in measured.items() if value is not None})


class QuietProgress(ProgressCallback):
    """transformers' bar on the main process, named after the stage, without a line for every logged step."""

    def __init__(self, stage: str):
        super().__init__()
        self.stage = stage

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.stage)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        shown = {key: logs[key] for key in ("loss", "objective/scores", "objective/kl") if logs and key in logs}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(
                {key.removeprefix("objective/"): f"{value:.3g}" for key, value in shown.items()}
            )


def resolve_report_to(report_to: str) -> list[str]:
    """The trackers that `--report_to` names (comma-separated; `none`, or `all` that are installed).

    Raises:
        InputError: a tracker that transformers does not know, or that is not installed.
    """
    if report_to == "none":
        return []  # to look for trackers is to import them
    installed = get_available_reporting_integrations()
    if report_to == "all":
        return installed
    names = report_to.split(",")
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise InputError(
                f"--report_to {report_to}: unknown tracker {name!r}; known: {', '.join(INTEGRATION_TO_CALLBACK)}"
            )
        if name not in installed:
            raise InputError(f"--report_to {report_to}: {name} is not installed; pip install {name}")
    return names


def replace_progress(trainer: Trainer, stage: str, disable_tqdm: bool) -> None:
    """Our quiet bar instead of transformers' bar and printer, and our metrics in front of the trackers."""
    trainer.callback_handler.callbacks.sort(key=lambda callback: not isinstance(callback, MetricsCallback))
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not disable_tqdm:
        trainer.add_callback(QuietProgress(stage))


def train_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    label_ids: Sequence[int],
    config: SupervisedConfig,
    run: Run,
    stage: str,
    measure: Measure = no_metrics,
    loss: Loss | None = None,
    by_length: bool = False,
    resume: ResumeContext | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> int:
    """Minimise `loss` of `model` on (texts, label_ids), in place, with the recipe of `config`, logged as `stage`.
    Texts are cut where `tokenizer` says. Returns the number of steps.

    By default that is cross-entropy; otherwise `label_ids` may be whatever `loss` makes of them, such as rows of a
    table of targets. `by_length`: in batches of like length, which is worth it where the model is big. With `resume`
    it writes checkpoints and can be stopped and resumed. `callbacks` are the caller's own.

    Raises:
        TrainingDivergedError: a gradient was not finite.
        Stopped: a signal asked for the end.
        InputError: no rows, or a tracker or scheduler that transformers does not know.
    """
    if not texts:
        raise InputError(f"{stage}: no questions to train on")
    table, label_N = token_table(texts, tokenizer, max_input_length(tokenizer)), torch.tensor(label_ids)
    length_N = table.length_N

    def collate(rows: list[int]) -> dict[str, Tensor]:
        rows_B = torch.tensor(rows)  # a batch is as wide as its longest question
        return {**table.rows(rows_B, int(length_N[rows_B].max())), "labels": label_N[rows_B]}

    trainer = ResumableTrainer(
        model,
        _arguments(config, run, stage, len(texts)),
        data_collator=collate,
        train_dataset=range(len(texts)),
        callbacks=[
            MetricsCallback(run, stage, measure),
            GradNormCallback(None, lambda what: _fault(what, trainer, tokenizer, run)),
            *callbacks,
        ],
        compute_loss_func=None if loss is None else lambda outputs, labels, **_: loss(outputs.logits, labels),
    )
    if by_length:
        trainer.order = LikeLengths(length_N, config.per_device_train_batch_size, config.seed)
    replace_progress(trainer, stage, config.disable_tqdm)
    if resume is not None:
        trainer.enable_checkpoints(CheckpointWriter(config, run, model, tokenizer, resume, stage))
    with tracker_session(trainer, run.path, stage), nullcontext() if resume is None else defer_signals():
        trainer.train_or_resume()
    require_equal_ranks(trainer)
    model.eval()
    return trainer.state.global_step


def _fault(what: str, trainer: ResumableTrainer, tokenizer: PreTrainedTokenizerBase, run: Run) -> TrainingDivergedError:
    """What to raise where `what` is not finite; the batch has been written by then, by each process its own."""
    file, step = run.path / f"not-finite-{rank()}.json", trainer.state.global_step + 1
    batch = {name: own.tolist() for name, own in trainer.last_inputs.items()}
    questions = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    write_json(file, {"what": what, "step": step, "questions": questions, **batch})
    return TrainingDivergedError(f"{what} is not finite in step {step}; its batch is in {file}; lower --learning_rate")


def _arguments(config: SupervisedConfig, run: Run, stage: str, num_rows: int) -> TrainingArguments:
    """transformers' own arguments: ours, and everything that must have one value said once.

    Raises:
        InputError: a tracker or scheduler that transformers does not know.
    """
    steps = num_rows * config.num_train_epochs / config.per_device_train_batch_size
    try:
        arguments = TrainingArguments(
            output_dir=str(run.path),
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            adam_beta2=config.adam_beta2,
            num_train_epochs=config.num_train_epochs,
            per_device_train_batch_size=config.per_device_train_batch_size,
            optim="adamw_torch_fused",  # an eighth of the time of the plain one, where weights are many
            seed=config.seed,
            save_strategy="no",
            average_tokens_across_devices=False,  # the loss is a mean already
            logging_steps=max(1, round(steps / 50)),
            report_to=resolve_report_to(config.report_to),
            run_name=run_name(
                run.target.name if stage == run.method else f"{run.target.name} {stage}", config.report_to
            ),
            project=project(),
            disable_tqdm=config.disable_tqdm,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # a process uses one device, or DataParallel would widen the batch
    except ValueError as error:
        raise InputError(f"{stage}: {str(error).splitlines()[0]}") from None
    return arguments
