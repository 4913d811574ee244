"""What every method starts from: the reference, the questions and the grades; and training on them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.data import Questions
from eightball_ppo.evaluation import ExactMetrics, GradedSplit, LazyTable, record
from eightball_ppo.graders.base import convert_scores
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.graders.job import grade_job
from eightball_ppo.graders.per_call_scores import PerCallScores
from eightball_ppo.graders.training_scores import training_scores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.calibrate import CalibrationTexts, kept_back_N
from eightball_ppo.methods.defaults import resolve_defaults
from eightball_ppo.methods.inputs import NO_INPUTS, Inputs, load_reference
from eightball_ppo.methods.prerequisites import train_prerequisites
from eightball_ppo.methods.score_unit import resolve_kl_coef
from eightball_ppo.models.frozen import with_features
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.tokenization import TokenTable, max_input_length, tokenize
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.scores import RolloutRecorder
from eightball_ppo.training.supervised import Loss, train_classifier
from eightball_ppo.trl_adapters.policy import PolicyAdapter

C = TypeVar("C", bound=MethodConfig)
MAX_METRIC_QUESTIONS = 8192  # training questions on which the exact metrics are measured at every logged step


class MetricSubset(NamedTuple):
    """A sample of the questions of a split, with their tokens and scores."""

    tokens: TokenTable
    graded: GradedSplit


@dataclass(frozen=True)
class Task(Generic[C]):
    """One reference, and two splits of questions with complete grades: "train" and "heldout".

    Attributes:
        labels: The K labels.
        classifier: The reference.
        tokenizer: Its tokenizer.
        questions: The questions of each split.
        tokens: Their token ids.
        ref_logits_NK: Logits of the reference, shape [N, K], of each split.
        grader_logp_NK: The grader's log-probabilities, shape [N, K], in nats, of each split; results use these. Of a
            grader with raw scores: the scores.
        noisy_logp_NK: Those of the training questions after `--label_noise`, but for noise at every call; methods read
            `known_logp_NK`.
        train_scores: The scores made of `noisy_logp_NK`, divided by `unit`, behind the budget; methods learn from these
            alone, by `known_score_NK`.
        grader_fingerprint: Identifies the grader.
        grading_record: What grading cost, for results.json.
        config: The options of the method, with `kl_coef` in the unit of `train_scores`.
        unit: What raw scores and `kl_coef` are divided by for training, so that their unit does not matter; else 1.
        recorded_config: The options with `kl_coef` in the grader's unit, as config.yaml has it; None: `config`.
        metric_subset: The training questions that `exact_metrics` measures during training; None for all of them.
        calibration: The texts that `--calibrate` keeps back; None without it.
        resume: How the training is stopped and resumed.
        callbacks: Of the caller, for the trainer.
        temporary: Whether the caller will remove the run.
    """

    labels: LabelSet
    classifier: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    questions: dict[str, Questions]
    tokens: dict[str, TokenTable]
    ref_logits_NK: dict[str, Tensor]
    grader_logp_NK: dict[str, Tensor]
    noisy_logp_NK: Tensor
    train_scores: BudgetedScores
    grader_fingerprint: str
    grading_record: dict[str, Any]
    config: C
    unit: float = 1.0
    recorded_config: C | None = None
    metric_subset: MetricSubset | None = None
    calibration: CalibrationTexts | None = None
    resume: ResumeContext = field(default_factory=lambda: ResumeContext({}))
    callbacks: tuple[TrainerCallback, ...] = ()
    temporary: bool = False

    def known_logp_NK(self) -> Tensor:
        """What training knows of `noisy_logp_NK`, shape [N, K]: what the observed cells, or all answers, say of it."""
        if self.train_scores.budget is None and not isinstance(self.train_scores, PerCallScores):
            return self.noisy_logp_NK
        return self.train_scores.known_logp_NK() * self.unit

    @property
    def beta(self) -> float:
        """The KL coefficient in the grader's unit."""
        return (self.recorded_config or self.config).beta

    def graded(self, split: str) -> GradedSplit:
        """The split with the clean scores."""
        score_NK, ref_logp_NK = self._tables(split)
        return GradedSplit(self.questions[split], score_NK.materialize(), ref_logp_NK.materialize())

    def _tables(self, split: str) -> tuple[LazyTable, LazyTable]:
        """Scores and log-probabilities of the reference, shape [N, K], in float64."""
        score_type = self.config.score_type or "log_prob"
        score_NK = LazyTable(self.grader_logp_NK[split], lambda logp_NK: convert_scores(logp_NK.double(), score_type))
        return score_NK, LazyTable(self.ref_logits_NK[split], log_softmax_double)

    def record(self, split: str, logits_NK: Tensor) -> dict[str, Any]:
        """The metrics of a policy for results.json; allocates no [N, K] table in float64.

        Args:
            split: "train" or "heldout".
            logits_NK: Logits of the policy, shape [N, K].
        """
        score_NK, ref_logp_NK = self._tables(split)
        logp_NK = LazyTable(logits_NK, log_softmax_double)
        return record(logp_NK, ref_logp_NK, score_NK, self.questions[split], self.beta, self.labels)

    def exact_metrics(self, policy: PreTrainedModel) -> dict[str, Any]:
        """The metrics `exact/*` of `policy`, sums over all labels, and `grader_calls` so far.

        They are means over all training questions, or over those of `metric_subset`, whose number is `exact/questions`.
        """
        tokens = self.tokens["train"] if self.metric_subset is None else self.metric_subset.tokens
        metrics = self._exact_metrics.metrics(predict_logits_NK(policy, tokens, by_length=True))
        if self.metric_subset is not None:
            metrics["questions"] = len(tokens)
        return {**{f"exact/{name}": value for name, value in metrics.items()}, "grader_calls": self.train_scores.calls}

    @cached_property
    def _exact_metrics(self) -> ExactMetrics:
        graded = self.graded("train") if self.metric_subset is None else self.metric_subset.graded
        return ExactMetrics(graded, self.beta)


def log_softmax_double(logits_NK: Tensor) -> Tensor:
    """Log-probabilities in float64, shape [N, K]."""
    return logits_NK.double().log_softmax(-1)


def load_task(config: C, questions: dict[str, Questions], given: Inputs = NO_INPUTS) -> Task[C]:
    """Loads or trains the reference, and grades the questions.

    Args:
        config: The options of a method.
        questions: The splits, of `load_splits`; those without a complete grade are left out of the task.
        given: Objects that replace what `config` names; the task takes the model as it is.

    Raises:
        InputError: Bad checkpoint or grader, labels that differ between them, or a grader that is too weak.
        IncompleteError: Too many grades failed.
    """
    train_prerequisites(config, given.model is None, given.judge is None)
    classifier, tokenizer = given.model or load_reference(config)
    labels = config.label_set()
    config = resolve_defaults(config, classifier, len(questions["train"]))
    grading = grade_job(config, labels, questions, given.judge)
    complete_N = {split: scores.complete_N for split, scores in grading.tables.items()}
    kept_N = complete_N["train"] & kept_back_N(questions["train"], config)
    complete_N["train"] = complete_N["train"] & ~kept_N
    kept_back = questions["train"].subset(np.flatnonzero(kept_N))
    questions = {
        split: asked if complete_N[split].all() else asked.subset(np.flatnonzero(complete_N[split]))
        for split, asked in questions.items()
    }

    def table(asked: Questions) -> TokenTable:
        return with_features(classifier, tokenize(asked, tokenizer, max_input_length(tokenizer)))

    calibration = None
    if len(kept_back):
        calibration = CalibrationTexts(table(kept_back), grading.training.score_NK[torch.from_numpy(kept_N)])
    tokens = {split: table(asked) for split, asked in questions.items()}
    grader_logp_NK = {s: grading.tables[s].score_NK[torch.from_numpy(complete_N[s])] for s in questions}
    recorded, unit = resolve_kl_coef(config, grading.tables["train"].scale == "raw", grader_logp_NK["train"])
    config = recorded if unit == 1 else recorded.in_unit(unit)
    observed_NK = grading.training.score_NK[torch.from_numpy(complete_N["train"])]
    about = (questions["train"].texts, labels, grading.fingerprint)
    train_scores, noisy_logp_NK = training_scores(config, observed_NK, unit, grading.sums_to_one, *about)
    task = Task(
        labels,
        classifier,
        tokenizer,
        questions,
        tokens,
        ref_logits_NK={split: logits_NK(classifier, table) for split, table in tokens.items()},
        grader_logp_NK=grader_logp_NK,
        noisy_logp_NK=noisy_logp_NK,
        train_scores=train_scores,
        grader_fingerprint=grading.fingerprint,
        grading_record=grading.record,
        config=config,
        unit=unit,
        recorded_config=recorded,
        calibration=calibration,
    )
    return replace(task, metric_subset=_metric_subset(task))


def logits_NK(model: PreTrainedModel, table: TokenTable) -> Tensor:
    """Logits on the CPU, shape [N, K], computed on the device of this launch; `model` returns to its device."""
    device = next(model.parameters()).device
    try:
        return predict_logits_NK(model.to(PartialState().device), table)
    finally:
        model.to(device)


def train_on_rows(
    task: Task,
    policy: PreTrainedModel,
    rows: list[int],
    loss: Loss,
    run: Run,
    stage: str,
    resume: ResumeContext,
    callbacks: Sequence[TrainerCallback] = (),
) -> int:
    """Trains `policy` in place on the training questions with the indices `rows`, logged as `stage`.

    Args:
        task: The task.
        policy: The model to train.
        rows: Indices of training questions.
        loss: Maps logits [B, K] and indices [B] to a number to minimise.
        run: Logs the training.
        stage: The name of the training; the exact metrics are measured if it is that of the method.
        resume: How the training is stopped and resumed.
        callbacks: Of the method; those of the task follow.

    Returns:
        The number of optimizer steps.
    """
    table = task.tokens["train"].subset(rows)
    measure = (lambda: task.exact_metrics(policy)) if stage == run.method else dict
    fixed = (task.config, run, stage, measure, loss)
    return train_classifier(
        policy, task.tokenizer, table, rows, *fixed, resume=resume, callbacks=(*callbacks, *task.callbacks)
    )


def record_rollouts(
    task: Task, policy: PolicyAdapter, reference: PolicyAdapter, kl_coef: Callable[[], float], updates: int, run: Run
) -> RolloutRecorder:
    """Wraps the scores of the training questions of `task` with a `RolloutRecorder`, whose arguments these are."""
    texts, names = task.questions["train"].texts, task.labels.names
    read = (task.config, task.train_scores, policy, reference, kl_coef)
    return RolloutRecorder(*read, texts, names, updates, run, task.unit)


def _metric_subset(task: Task) -> MetricSubset | None:
    """The training questions with the smallest hashes, independent of their order; None where all can be measured."""
    questions = task.questions["train"]
    if len(questions) <= MAX_METRIC_QUESTIONS:
        return None
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in questions.texts)
    rank_N = np.fromiter((int.from_bytes(digest) for digest in digests), np.uint64, len(questions))
    rows = np.sort(np.argpartition(rank_N, MAX_METRIC_QUESTIONS)[:MAX_METRIC_QUESTIONS])
    sample = questions.subset(rows)
    score_NK = convert_scores(task.grader_logp_NK["train"][rows].double(), task.config.score_type or "log_prob")
    ref_logp_NK = task.ref_logits_NK["train"][rows].double().log_softmax(-1)
    tokens = task.tokens["train"].subset(rows.tolist())
    return MetricSubset(tokens, GradedSplit(sample, score_NK, ref_logp_NK))
