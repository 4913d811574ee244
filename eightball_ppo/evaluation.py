"""Exact evaluation: policy x scores -> one record per split, and the before/after table of single questions.

A million questions are measured some thousand at a time: of each chunk the sums are kept, in float64, and nothing else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from eightball_ppo.data import Questions, pairs
from eightball_ppo.functional import objective
from eightball_ppo.labels import LabelSet

SAMPLES_PER_QUESTION = 50
EVAL_BATCH_SIZE = 16384


class LazyTable:
    """Lazily maps `fn`, which works row by row, over a [N, K] tensor in chunks."""

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
    """One split as a method sees it: questions, scores [N, K] of all labels, the reference's log-probs [N, K]."""

    questions: Questions
    score_NK: Tensor
    ref_logp_NK: Tensor


class ExactMetrics:
    """Computes `exact/*` of one policy after another on the same questions; what depends on no policy, once.

    All are exact sums over labels, averaged over the questions, in float64.
    """

    def __init__(self, graded: GradedSplit, beta: float):
        self.beta = beta
        self.ref_logp_NK, self.score_NK = graded.ref_logp_NK.double().log_softmax(-1), graded.score_NK.double()
        self.j_ref = objective.expected_score_N(self.ref_logp_NK, self.score_NK).mean()
        self.j_best = objective.optimum_objective_N(self.ref_logp_NK, self.score_NK, beta).mean()

    def metrics(self, logits_NK: Tensor) -> dict[str, float | None]:
        """`expected_score`, `kl` (nats), `entropy` (nats), `objective`, `optimum_fraction` of these logits."""
        logp_NK = logits_NK.double().log_softmax(-1)
        score, kl = (
            objective.expected_score_N(logp_NK, self.score_NK).mean(),
            objective.kl_exact_N(logp_NK, self.ref_logp_NK).mean(),
        )
        j = score - self.beta * kl
        return {
            "expected_score": score.item(),
            "kl": kl.item(),
            "entropy": objective.entropy_N(logp_NK).mean().item(),
            "objective": j.item(),
            "optimum_fraction": objective.share_of_gain(j, self.j_ref, self.j_best),
        }


def _means(measure: Callable[..., dict[str, Tensor]], *tables: Table) -> dict[str, Tensor]:
    """What `measure` makes of chunks of the tables, sums over their questions, added up and divided by their number."""
    sums: dict[str, Tensor] = {}
    for chunk in zip(*(table.split(EVAL_BATCH_SIZE) for table in tables), strict=True):
        for name, value in measure(*chunk).items():
            sums[name] = sums[name] + value if name in sums else value
    return {name: value / len(tables[0]) for name, value in sums.items()}


def describe(logp_NK: Tensor, ref_logp_NK: Tensor, questions: Questions, labels: LabelSet) -> dict[str, Any]:
    """What needs no grader: `kl` to the reference and `entropy` (nats), `label_histogram` (mean probability of each
    label), `greedy_histogram` (share of questions whose most probable label it is) and, on a labelled split,
    `gold_accuracy` (the most probable label is the wanted one) and `gold_probability` (mean probability of the wanted
    label); None without labels.
    """
    return _described(_means(_answers, logp_NK, ref_logp_NK, *_gold(questions)), questions, labels)


def _gold(questions: Questions) -> tuple[Tensor, ...]:
    """The wanted labels [N], as int64, or nothing."""
    return () if questions.label_ids is None else (torch.as_tensor(questions.label_ids, dtype=torch.long),)


def _answers(logp_BK: Tensor, ref_logp_BK: Tensor, gold_B: Tensor | None = None) -> dict[str, Tensor]:
    """The sums over a chunk that `describe` is made of."""
    logp_BK, ref_logp_BK = logp_BK.double(), ref_logp_BK.double()
    greedy_B, p_BK = logp_BK.argmax(-1), logp_BK.exp()
    sums = {
        "kl": objective.kl_exact_N(logp_BK, ref_logp_BK).sum(),
        "entropy": objective.entropy_N(logp_BK).sum(),
        "label_histogram": p_BK.sum(0),
        "greedy_histogram": torch.bincount(greedy_B, minlength=logp_BK.shape[1]),
    }
    if gold_B is not None:
        sums["gold_accuracy"] = (greedy_B == gold_B).double().sum()
        sums["gold_probability"] = p_BK.gather(1, gold_B[:, None]).sum()
    return sums


def _described(means: dict[str, Tensor], questions: Questions, labels: LabelSet) -> dict[str, Any]:
    return {
        "questions": len(questions),
        "kl": means["kl"].item(),
        "entropy": means["entropy"].item(),
        "gold_accuracy": means["gold_accuracy"].item() if "gold_accuracy" in means else None,
        "gold_probability": means["gold_probability"].item() if "gold_probability" in means else None,
        "label_histogram": dict(zip(labels.names, means["label_histogram"].tolist(), strict=True)),
        "greedy_histogram": dict(zip(labels.names, means["greedy_histogram"].tolist(), strict=True)),
    }


def evaluate(logp_NK: Tensor, split: GradedSplit, beta: float, labels: LabelSet) -> dict[str, Any]:
    """`record` of one policy on one graded split."""
    return record(logp_NK, split.ref_logp_NK, split.score_NK, split.questions, beta, labels)


def record(
    logp_NK: Table, ref_logp_NK: Table, score_NK: Table, questions: Questions, beta: float, labels: LabelSet
) -> dict[str, Any]:
    """The record of one policy on one graded split: `describe`, and `expected_score`, `objective` (J),
    `optimum_objective` (J*), `optimum_fraction`, `frontier_distance` (what is missing to the best expected score at the
    policy's own KL), `win_rate` (the policy's answer scores higher than the reference's, a tie counting half),
    `tie_rate`, and `grader_histogram` (share of questions whose best-scored label it is). Every number is an exact sum
    over labels, averaged over questions.
    """

    def measure(logp_BK: Tensor, ref_logp_BK: Tensor, score_BK: Tensor, *gold: Tensor) -> dict[str, Tensor]:
        logp_BK, ref_logp_BK, score_BK = _exact(logp_BK, ref_logp_BK, score_BK)
        win_B, tie_B = objective.win_and_tie_N(logp_BK, ref_logp_BK, score_BK)
        return {
            "expected_score": objective.expected_score_N(logp_BK, score_BK).sum(),
            "reference_score": objective.expected_score_N(ref_logp_BK, score_BK).sum(),
            "objective": objective.objective_N(logp_BK, ref_logp_BK, score_BK, beta).sum(),
            "optimum_objective": objective.optimum_objective_N(ref_logp_BK, score_BK, beta).sum(),
            "win_rate": (win_B + tie_B / 2).sum(),
            "tie_rate": tie_B.sum(),
            "grader_histogram": torch.bincount(score_BK.argmax(-1), minlength=len(labels)),
            **_answers(logp_BK, ref_logp_BK, *gold),
        }

    tables = (logp_NK, ref_logp_NK, score_NK)
    means = _means(measure, *tables, *_gold(questions))
    j, j_ref, j_best = (means[name] for name in ("objective", "reference_score", "optimum_objective"))
    return {
        **{name: means[name].item() for name in ("expected_score", "objective", "optimum_objective")},
        "optimum_fraction": objective.share_of_gain(j, j_ref, j_best),
        "frontier_distance": _frontier_distance(tables, means["kl"].item()),
        **{name: means[name].item() for name in ("win_rate", "tie_rate")},
        **_described(means, questions, labels),
        "grader_histogram": dict(zip(labels.names, means["grader_histogram"].tolist(), strict=True)),
    }


def _exact(logp_BK: Tensor, ref_logp_BK: Tensor, score_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: at a high beta the gain to measure is a thousandth of the numbers it is the difference of."""
    return logp_BK.double().log_softmax(-1), ref_logp_BK.double().log_softmax(-1), score_BK.double()


def _frontier_distance(tables: tuple[Table, Table, Table], kl: float) -> float:
    """The mean of `objective.frontier_distance_N` of (log-probs, the reference's, scores), `kl` being the mean KL."""

    def chunks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for parts in zip(*(table.split(EVAL_BATCH_SIZE) for table in tables), strict=True):
            yield _exact(*parts)

    def mean_kl(price: float) -> float:
        total = torch.zeros((), dtype=torch.float64)
        for _, ref_logp_BK, score_BK in chunks():
            score_BK = score_BK - score_BK.max(-1, keepdim=True).values
            best_BK = objective.optimum_logp_NK(ref_logp_BK, score_BK, price)
            total += objective.kl_exact_N(best_BK, ref_logp_BK).sum()
        return (total / len(tables[0])).item()

    beta = 0.0
    if kl > 0:
        ranges = [(own.max(-1).values - own.min(-1).values).max().item() for _, _, own in chunks()]
        beta = objective.search_beta(mean_kl, max(ranges), kl)
    total = torch.zeros((), dtype=torch.float64)
    for logp_BK, ref_logp_BK, score_BK in chunks():
        if kl <= 0:
            best_B = objective.expected_score_N(ref_logp_BK, score_BK)
            own_B = objective.expected_score_N(logp_BK, score_BK)
        else:
            best_B = objective.optimum_objective_N(ref_logp_BK, score_BK, beta)
            own_B = objective.objective_N(logp_BK, ref_logp_BK, score_BK, beta)
        total += (best_B - own_B).sum()
    return (total / len(tables[0])).item()


def before_after(
    split: GradedSplit, logits_before_NK: Tensor, logits_after_NK: Tensor, labels: LabelSet, seed: int
) -> pd.DataFrame:
    """One row per question: question (and text_pair), wanted, grader's scores, then the policy's logits, probabilities
    and sampled counts, before and after. The counts are of 50 draws each, from a generator of their own; `change` is
    the total variation distance between before and after.
    """
    texts = pairs.columns(split.questions.texts)
    columns: dict[str, Any] = {name: pd.Series(own, dtype=object) for name, own in texts.items()}
    if split.questions.label_ids is not None:
        columns["wanted"] = [labels.names[i] for i in split.questions.label_ids]
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
    """How often each label comes up in 50 draws a question, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    counts = []
    for p_BK in p_NK.split(EVAL_BATCH_SIZE):
        draws_BS = torch.multinomial(p_BK, SAMPLES_PER_QUESTION, replacement=True, generator=generator)
        counts.append(torch.stack([(draws_BS == k).sum(1) for k in range(p_BK.shape[1])], dim=1))
    return torch.cat(counts)
