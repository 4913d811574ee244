"""What every method starts from: the reference, the questions, the grades."""

import copy
import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.data import Questions, load_both
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.evaluation import ExactMetrics, GradedSplit, LazyTable, record
from eightball_ppo.graders.base import Grader, convert_scores
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.graders.job import check_grades, grade_job
from eightball_ppo.graders.registry import check_graders
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.prerequisites import train_prerequisites
from eightball_ppo.models.loading import label_set, load_classifier, predict_logits_NK
from eightball_ppo.models.tokenization import TokenTable, max_input_length, set_max_length, token_table, tokenize
from eightball_ppo.training.resume import ResumeContext

C = TypeVar("C", bound=MethodConfig)
LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_METRIC_QUESTIONS = 8192  # training questions of which the exact metrics are measured at every logged step


@dataclass(frozen=True)
class MetricSubset:
    """Some of the questions of a split, their tokens and scores."""

    tokens: TokenTable
    graded: GradedSplit


class Inputs(NamedTuple):
    """Objects that take the place of what a config names; None: what it names.

    `model` is the reference and its tokenizer, `judge` scores the questions `train` and the labelled ones `evaluation`.
    """

    model: LoadedModel | None = None
    judge: Grader | None = None
    train: Questions | None = None
    evaluation: Questions | None = None


NO_INPUTS = Inputs()


@dataclass(frozen=True)
class Task(Generic[C]):
    """One reference, and two splits of questions with whole grades; methods may learn from the split `train`.

    `grader_logp_NK` are the grader's log-probabilities, which results are measured with. `noisy_logp_NK` are those of
    the training questions with `--label_noise` applied, and `train_scores` the scores made of them, behind the budget:
    methods learn from these alone. `grading_record`: what grading cost, for results.json. `metric_subset`: the training
    questions that `exact_metrics` measures during training; None for all of them.
    `resume`: how the training is stopped and resumed. `callbacks` are the caller's own.
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
    metric_subset: MetricSubset | None = None
    resume: ResumeContext = field(default_factory=lambda: ResumeContext({}))
    callbacks: tuple[TrainerCallback, ...] = ()

    def graded(self, split: str) -> GradedSplit:
        """The split with the scores that training maximises."""
        score_NK, ref_logp_NK = self._tables(split)
        return GradedSplit(self.questions[split], score_NK.materialize(), ref_logp_NK.materialize())

    def _tables(self, split: str) -> tuple[LazyTable, LazyTable]:
        """Scores and the reference's log-probabilities [N, K], in float64."""
        score_NK = LazyTable(
            self.grader_logp_NK[split], lambda own: convert_scores(own.double(), self.config.score_type)
        )
        return score_NK, LazyTable(self.ref_logits_NK[split], log_softmax_double)

    def record(self, split: str, logits_NK: Tensor) -> dict[str, Any]:
        """The record of a policy with these logits; no table in float64 is made of a whole split."""
        score_NK, ref_logp_NK = self._tables(split)
        logp_NK, beta = LazyTable(logits_NK, log_softmax_double), self.config.kl_coef
        return record(logp_NK, ref_logp_NK, score_NK, self.questions[split], beta, self.labels)

    def exact_metrics(self, policy: PreTrainedModel) -> dict[str, Any]:
        """`exact/*` of `policy` as it is now, sums over all labels of all training questions, or of those in
        `metric_subset`; `exact/questions` says how many these are; `grader_calls` so far."""
        tokens = self.tokens["train"] if self.metric_subset is None else self.metric_subset.tokens
        sample = {} if self.metric_subset is None else {"exact/questions": len(tokens)}
        exact = self._exact_metrics.metrics(predict_logits_NK(policy, tokens, by_length=True))
        return {
            **{f"exact/{name}": value for name, value in exact.items()},
            **sample,
            "grader_calls": self.train_scores.calls,
        }

    @cached_property
    def _exact_metrics(self) -> ExactMetrics:
        graded = self.graded("train") if self.metric_subset is None else self.metric_subset.graded
        return ExactMetrics(graded, self.config.kl_coef)


def log_softmax_double(logits_NK: Tensor) -> Tensor:
    """Log-probabilities in float64."""
    return logits_NK.double().log_softmax(-1)


def load_splits(config: GraderTrainingConfig, given: Inputs = NO_INPUTS) -> dict[str, Questions]:
    """The questions to learn from ("train", unlabelled) and those to measure on ("heldout", labelled).

    Raises:
        InputError: bad data, labels, grader options, table or store; cheap, so that it comes before any training.
    """
    labels = config.label_set()
    if given.judge is None:
        check_graders(config, labels)
    train, evaluation = given.train, given.evaluation
    if train is None or evaluation is None:
        both = load_both(config, None, labels)
        train, evaluation = both[0] if train is None else train, both[1] if evaluation is None else evaluation
    splits = {"train": train, "heldout": evaluation}
    check_grades(config, labels, ArrowTexts.concatenate(split.texts for split in splits.values()), given.judge)
    return splits


def load_task(config: C, questions: dict[str, Questions], given: Inputs = NO_INPUTS) -> Task[C]:
    """Reference, questions and grades of a method, training the defaults where they are missing.

    Raises:
        InputError: bad checkpoint or grader, labels that differ between them, or a grader that is too weak.
        IncompleteError: too many grades failed.
    """
    train_prerequisites(config, given.model is None, given.judge is None)
    labels = config.label_set()
    if given.model is None:
        classifier, tokenizer = load_classifier(
            config.sft_model_path, "--sft_model_path", DTYPES[config.dtype], config.trust_remote_code
        )
        owner = f"--sft_model_path {config.sft_model_path}"
    else:
        (classifier, tokenizer), owner = copy.deepcopy(given.model), "the model that was passed"
    labels.require_same(label_set(classifier), "--labels", owner)
    grading = grade_job(config, labels, questions, given.judge)
    complete_N = {split: scores.complete_N for split, scores in grading.tables.items()}
    questions = {
        split: own if complete_N[split].all() else own.subset(np.flatnonzero(complete_N[split]))
        for split, own in questions.items()
    }
    set_max_length(tokenizer, classifier, config.max_length)
    tokens = {split: tokenize(own, tokenizer, max_input_length(tokenizer)) for split, own in questions.items()}
    noisy_logp_NK = grading.training.logp_NK[torch.from_numpy(complete_N["train"])]
    train_scores_NK = convert_scores(noisy_logp_NK, config.score_type)
    task = Task(
        labels,
        classifier,
        tokenizer,
        questions,
        tokens,
        ref_logits_NK={split: logits_NK(classifier, table) for split, table in tokens.items()},
        grader_logp_NK={
            split: grading.tables[split].logp_NK[torch.from_numpy(complete_N[split])] for split in questions
        },
        noisy_logp_NK=noisy_logp_NK,
        train_scores=BudgetedScores(train_scores_NK, config.grader_call_budget, config.seed),
        grader_fingerprint=grading.fingerprint,
        grading_record=grading.record,
        config=config,
    )
    return replace(task, metric_subset=_metric_subset(task))


def logits_NK(model: PreTrainedModel, table: TokenTable) -> Tensor:
    """Logits [N, K] on the CPU, computed on the device of this launch; the model goes back to where it was."""
    home = next(model.parameters()).device
    try:
        return predict_logits_NK(model.to(PartialState().device), table)
    finally:
        model.to(home)


def _metric_subset(task: Task) -> MetricSubset | None:
    """A sample of the training questions, where they are many: those with the smallest hashes, whatever their order."""
    questions = task.questions["train"]
    if len(questions) <= MAX_METRIC_QUESTIONS:
        return None
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in questions.texts)
    rank_N = np.fromiter((int.from_bytes(digest) for digest in digests), np.uint64, len(questions))
    rows = np.sort(np.argpartition(rank_N, MAX_METRIC_QUESTIONS)[:MAX_METRIC_QUESTIONS])
    sample = questions.subset(rows)
    score_NK = convert_scores(task.grader_logp_NK["train"][rows].double(), task.config.score_type)
    ref_logp_NK = task.ref_logits_NK["train"][rows].double().log_softmax(-1)
    tokens = token_table(sample.texts, task.tokenizer, max_input_length(task.tokenizer))
    return MetricSubset(tokens, GradedSplit(sample, score_NK, ref_logp_NK))
