"""Exact evaluation: policy x scores -> one record per split, and the before/after table of single questions.

Splits are evaluated in chunks, of which only float64 sums are kept: memory does not grow with a million questions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eightball_ppo.data import Questions, pairs
from eightball_ppo.functional import calibration, objective
from eightball_ppo.labels import LabelSet

SAMPLES_PER_QUESTION = 50
EVAL_BATCH_SIZE = 16384


class LazyTable:
    """Lazily maps `fn` over a [N, K] tensor in chunks of rows.

    Args:
        table_NK: The tensor.
        fn: A function of each row.
    """

    def __init__(self, table_NK: Tensor, fn: Callable[[Tensor], Tensor]):
        self.table_NK, self.fn = table_NK, fn

    def __len__(self) -> int:
        return len(self.table_NK)

    def split(self, size: int) -> Iterator[Tensor]:
        """Chunks of at most `size` rows."""
        return map(self.fn, self.table_NK.split(size))

    def materialize(self) -> Tensor:
        """All rows at once."""
        return self.fn(self.table_NK)


Table = Tensor | LazyTable


@dataclass(frozen=True)
class GradedSplit:
    """One split: questions, scores [N, K] of all labels, and the reference's log-probabilities [N, K]."""

    questions: Questions
    score_NK: Tensor
    ref_logp_NK: Tensor


class ExactMetrics:
    """Computes `exact/*` of policies on the same questions, as sums over labels in float64; [N, K] tensors.

    What does not depend on the policy is computed once.

    Args:
        graded: Questions, scores and reference.
        beta: KL coefficient, in units of the score per nat.
    """

    def __init__(self, graded: GradedSplit, beta: float):
        self.beta = beta
        self.ref_logp_NK, self.score_NK = graded.ref_logp_NK.double().log_softmax(-1), graded.score_NK.double()
        self.j_ref = objective.expected_score_N(self.ref_logp_NK, self.score_NK).mean()
        self.j_best = objective.optimum_objective_N(self.ref_logp_NK, self.score_NK, beta).mean()

    def metrics(self, logits_NK: Tensor) -> dict[str, float | None]:
        """Means of `expected_score`, `kl` (nats), `entropy` (nats), `objective`; and `optimum_fraction`."""
        logp_NK = logits_NK.double().log_softmax(-1)
        score = objective.expected_score_N(logp_NK, self.score_NK).mean()
        kl = objective.kl_exact_N(logp_NK, self.ref_logp_NK).mean()
        j = score - self.beta * kl
        return {
            "expected_score": score.item(),
            "kl": kl.item(),
            "entropy": objective.entropy_N(logp_NK).mean().item(),
            "objective": j.item(),
            "optimum_fraction": objective.share_of_gain(j, self.j_ref, self.j_best),
        }


def _means(measure: Callable[..., dict[str, Tensor]], *tables: Table) -> dict[str, Tensor]:
    """Means over questions of the sums that `measure` computes of chunks of the tables."""
    sums: dict[str, Tensor] = {}
    for chunk in zip(*(table.split(EVAL_BATCH_SIZE) for table in tables), strict=True):
        for name, value in measure(*chunk).items():
            sums[name] = sums[name] + value if name in sums else value
    return {name: value / len(tables[0]) for name, value in sums.items()}


def describe(logp_NK: Tensor, ref_logp_NK: Tensor, questions: Questions, labels: LabelSet) -> dict[str, Any]:
    """Metrics of a policy that need no grader.

    Args:
        logp_NK: Log-probabilities of the policy, [N, K].
        ref_logp_NK: Log-probabilities of the reference, [N, K].
        questions: The N questions.
        labels: The K labels.

    Returns:
        `kl` to the reference and `entropy` (nats), `label_histogram` (mean probability of each label),
        `greedy_histogram` (share of questions whose most probable label it is). With gold labels also `gold_accuracy`
        (the most probable label is the gold label), `gold_probability` (mean probability of the gold label), `brier`,
        `nll`, `ece` and `aurc` of `functional.calibration`; with labels that are not gold they are `label_accuracy`,
        `label_probability`, `label_brier` and so on.
    """
    means = _means(_label_sums, logp_NK, ref_logp_NK, *_labels(questions))
    return _description(means, questions, labels) | _confidence_measures(logp_NK, questions)


def _labels(questions: Questions) -> tuple[Tensor, ...]:
    """The label ids [N], int64, or nothing."""
    return () if questions.label_ids is None else (torch.as_tensor(questions.label_ids, dtype=torch.long),)


def _label_sums(logp_BK: Tensor, ref_logp_BK: Tensor, label_B: Tensor | None = None) -> dict[str, Tensor]:
    """The sums over a chunk that `describe` needs."""
    logp_BK, ref_logp_BK = logp_BK.double(), ref_logp_BK.double()
    greedy_B, p_BK = logp_BK.argmax(-1), logp_BK.exp()
    sums = {
        "kl": objective.kl_exact_N(logp_BK, ref_logp_BK).sum(),
        "entropy": objective.entropy_N(logp_BK).sum(),
        "label_histogram": p_BK.sum(0),
        "greedy_histogram": torch.bincount(greedy_B, minlength=logp_BK.shape[1]),
    }
    if label_B is not None:
        sums["accuracy"] = (greedy_B == label_B).double().sum()
        sums["probability"] = p_BK.gather(1, label_B[:, None]).sum()
        sums["brier"] = calibration.brier_N(logp_BK, label_B).sum()
        sums["nll"] = calibration.nll_N(logp_BK, label_B).sum()
    return sums


def _confidence_measures(logp_NK: Table, questions: Questions) -> dict[str, float]:
    """`ece` and `aurc`, which depend on all questions at once; nothing without labels."""
    if questions.label_ids is None:
        return {}
    chunks = zip(*(table.split(EVAL_BATCH_SIZE) for table in (logp_NK, *_labels(questions))), strict=True)
    parts = [calibration.confidence_and_correct(logp_BK, label_B) for logp_BK, label_B in chunks]
    sure_and_right = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    prefix = "" if questions.gold else "label_"
    measures = {"ece": calibration.ece_N, "aurc": calibration.aurc_N}
    return {f"{prefix}{name}": float(measure(*sure_and_right).mean()) for name, measure in measures.items()}


def _description(means: dict[str, Tensor], questions: Questions, labels: LabelSet) -> dict[str, Any]:
    kind, prefix = ("gold", "") if questions.gold else ("label", "label_")
    numbers = {"kl": "kl", "entropy": "entropy", "accuracy": f"{kind}_accuracy", "probability": f"{kind}_probability"}
    numbers |= {"brier": f"{prefix}brier", "nll": f"{prefix}nll"}
    histograms = [name for name in ("label_histogram", "greedy_histogram", "grader_histogram") if name in means]
    return {
        "questions": len(questions),
        **{shown: means[name].item() for name, shown in numbers.items() if name in means},
        **{name: dict(zip(labels.names, means[name].tolist(), strict=True)) for name in histograms},
    }


def evaluate(logp_NK: Tensor, split: GradedSplit, beta: float, labels: LabelSet) -> dict[str, Any]:
    """`record` of one policy on one graded split."""
    return record(logp_NK, split.ref_logp_NK, split.score_NK, split.questions, beta, labels)


def record(
    logp_NK: Table, ref_logp_NK: Table, score_NK: Table, questions: Questions, beta: float, labels: LabelSet
) -> dict[str, Any]:
    """Metrics of one policy on one graded split: exact sums over labels, averaged over questions.

    Args:
        logp_NK: Log-probabilities of the policy, [N, K].
        ref_logp_NK: Log-probabilities of the reference, [N, K].
        score_NK: Scores, [N, K].
        questions: The N questions.
        beta: KL coefficient, in units of the score per nat.
        labels: The K labels.

    Returns:
        The metrics of `describe`, and `expected_score`, `objective` (J), `optimum_objective` (J*), `optimum_fraction`,
        `optimum_confidence` (mean probability of the optimum's most probable label),
        `frontier_distance` (to the highest expected score at the policy's KL), `win_rate` (the policy's answer has a
        higher score than the reference's, a tie counting half), `tie_rate`, `judge_agreement` (share of questions whose
        most probable label has the highest score), and `grader_histogram` (share of questions whose best-scored label
        it is).
    """

    def measure(logp_BK: Tensor, ref_logp_BK: Tensor, score_BK: Tensor, *labels_B: Tensor) -> dict[str, Tensor]:
        logp_BK, ref_logp_BK, score_BK = _to_float64(logp_BK, ref_logp_BK, score_BK)
        win_B, tie_B = objective.win_and_tie_N(logp_BK, ref_logp_BK, score_BK)
        return {
            "expected_score": objective.expected_score_N(logp_BK, score_BK).sum(),
            "reference_score": objective.expected_score_N(ref_logp_BK, score_BK).sum(),
            "objective": objective.objective_N(logp_BK, ref_logp_BK, score_BK, beta).sum(),
            "optimum_objective": objective.optimum_objective_N(ref_logp_BK, score_BK, beta).sum(),
            "optimum_confidence": objective.optimum_confidence_N(ref_logp_BK, score_BK, beta).sum(),
            "win_rate": (win_B + tie_B / 2).sum(),
            "tie_rate": tie_B.sum(),
            "judge_agreement": (logp_BK.argmax(-1) == score_BK.argmax(-1)).double().sum(),
            "grader_histogram": torch.bincount(score_BK.argmax(-1), minlength=len(labels)),
            **_label_sums(logp_BK, ref_logp_BK, *labels_B),
        }

    tables = (logp_NK, ref_logp_NK, score_NK)
    means = _means(measure, *tables, *_labels(questions))
    j, j_ref, j_best = (means[name] for name in ("objective", "reference_score", "optimum_objective"))
    return {
        **{name: means[name].item() for name in ("expected_score", "objective", "optimum_objective")},
        "optimum_confidence": means["optimum_confidence"].item(),
        "optimum_fraction": objective.share_of_gain(j, j_ref, j_best),
        "frontier_distance": _frontier_distance(tables, means["kl"].item()),
        **{name: means[name].item() for name in ("win_rate", "tie_rate", "judge_agreement")},
        **_description(means, questions, labels),
        **_confidence_measures(logp_NK, questions),
    }


def _to_float64(logp_BK: Tensor, ref_logp_BK: Tensor, score_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # at a high beta the gain to measure is a thousandth of the numbers whose difference it is
    return logp_BK.double().log_softmax(-1), ref_logp_BK.double().log_softmax(-1), score_BK.double()


def _frontier_distance(tables: tuple[Table, Table, Table], kl: float) -> float:
    """Mean of `objective.frontier_distance_N` of (log-probabilities, reference, scores) whose mean KL is `kl`."""

    def chunks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for parts in zip(*(table.split(EVAL_BATCH_SIZE) for table in tables), strict=True):
            yield _to_float64(*parts)

    def mean_kl(beta: float) -> float:
        total = 0.0
        for _, ref_logp_BK, score_BK in chunks():
            score_BK = score_BK - score_BK.max(-1, keepdim=True).values
            best_BK = objective.optimum_logp_NK(ref_logp_BK, score_BK, beta)
            total += objective.kl_exact_N(best_BK, ref_logp_BK).sum().item()
        return total / len(tables[0])

    beta = None
    if kl > 0:
        ranges = [(score_BK.max(-1).values - score_BK.min(-1).values).max().item() for _, _, score_BK in chunks()]
        beta = objective.search_beta(mean_kl, max(ranges), kl)
    distances = (objective.frontier_distance_at_N(*chunk, beta).sum().item() for chunk in chunks())
    return sum(distances) / len(tables[0])


def before_after(
    split: GradedSplit, logits_before_NK: Tensor, logits_after_NK: Tensor, labels: LabelSet, seed: int
) -> pd.DataFrame:
    """A table of single questions before and after training.

    Args:
        split: Questions, scores and reference.
        logits_before_NK: The policy's logits before training, [N, K].
        logits_after_NK: The policy's logits after training, [N, K].
        labels: The K labels.
        seed: Seed of the sampled counts, which are drawn from a new generator.

    Returns:
        One row per question: question (and text_pair), `gold_label`, or `label` if it is not gold, the scores;
        before and after training the logits, the probabilities and the counts of 50 samples; and `change`, the total
        variation distance.
    """
    texts = pairs.columns(split.questions.texts)
    columns: dict[str, Any] = {name: pd.Series(column, dtype=object) for name, column in texts.items()}
    if split.questions.label_ids is not None:
        columns["gold_label" if split.questions.gold else "label"] = [
            labels.names[i] for i in split.questions.label_ids
        ]
    for k, name in enumerate(labels.names):
        columns[f"score_{name}"] = split.score_NK[:, k].double().numpy()
    probabilities = {}
    for when, logits_NK in (("before", logits_before_NK), ("after", logits_after_NK)):
        p_NK = probabilities[when] = logits_NK.softmax(-1)
        count_NK = _sampled_counts_NK(p_NK, seed)
        for k, name in enumerate(labels.names):
            columns[f"{when}_logit_{name}"] = logits_NK[:, k].double().numpy()
            columns[f"{when}_probability_{name}"] = p_NK[:, k].double().numpy()
            columns[f"{when}_count_{name}"] = count_NK[:, k].numpy()
    columns["change"] = (0.5 * (probabilities["after"] - probabilities["before"]).abs().sum(1)).double().numpy()
    return pd.DataFrame(columns)


def _sampled_counts_NK(p_NK: Tensor, seed: int) -> Tensor:
    """How often each label occurs in `SAMPLES_PER_QUESTION` draws."""
    generator = torch.Generator().manual_seed(seed)
    counts = []
    for p_BK in p_NK.split(EVAL_BATCH_SIZE):
        draws_BS = torch.multinomial(p_BK, SAMPLES_PER_QUESTION, replacement=True, generator=generator)
        counts.append(torch.zeros_like(p_BK, dtype=torch.long).scatter_add_(1, draws_BS, torch.ones_like(draws_BS)))
    return torch.cat(counts)
