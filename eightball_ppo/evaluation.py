"""Exact evaluation: policy x scores -> one record per split, and the before/after table of single questions."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from eightball_ppo import objective
from eightball_ppo.data import Questions
from eightball_ppo.labels import LabelSet

SAMPLES_PER_QUESTION = 50


@dataclass(frozen=True)
class SplitGrades:
    """One split as a method sees it: questions, scores [N, K] of all labels, the reference's log-probs [N, K]."""

    questions: Questions
    score_NK: Tensor
    ref_logp_NK: Tensor


def describe(logp_NK: Tensor, ref_logp_NK: Tensor, questions: Questions, labels: LabelSet) -> dict[str, Any]:
    """What needs no grader: `kl` to the reference and `entropy` (nats), `label_histogram` (mean probability of each
    label), `greedy_histogram` (share of questions whose most probable label it is) and, on a labelled split,
    `gold_accuracy` (the most probable label is the wanted one) and `gold_probability` (mean probability of the wanted
    label); None without labels.
    """
    logp_NK, ref_logp_NK = logp_NK.double(), ref_logp_NK.double()
    greedy_N = logp_NK.argmax(-1)
    greedy_share_K = torch.bincount(greedy_N, minlength=len(labels)) / len(greedy_N)
    record: dict[str, Any] = {
        "questions": len(questions),
        "kl": objective.kl_exact_N(logp_NK, ref_logp_NK).mean().item(),
        "entropy": objective.entropy_N(logp_NK).mean().item(),
        "gold_accuracy": None,
        "gold_probability": None,
        "label_histogram": dict(zip(labels.names, logp_NK.exp().mean(0).tolist(), strict=True)),
        "greedy_histogram": dict(zip(labels.names, greedy_share_K.tolist(), strict=True)),
    }
    if questions.label_ids is not None:
        gold_N = torch.tensor(questions.label_ids)
        record["gold_accuracy"] = (greedy_N == gold_N).double().mean().item()
        record["gold_probability"] = logp_NK.exp().gather(1, gold_N[:, None]).mean().item()
    return record


def evaluate(logp_NK: Tensor, split: SplitGrades, beta: float, labels: LabelSet) -> dict[str, Any]:
    """The record of one policy on one graded split: `describe`, and `expected_score`, `objective` (J),
    `optimum_objective` (J*), `optimum_fraction`, `frontier_distance` (what is missing to the best expected score at the
    policy's own KL), `win_rate` (the policy's answer scores higher than the reference's, a tie counting half),
    `tie_rate`, and `grader_histogram` (share of questions whose best-scored label it is). Every number is an exact sum
    over labels, averaged over questions.
    """
    # in float64: at a high beta the gain to measure is a thousandth of the numbers it is the difference of
    score_NK, ref_logp_NK = split.score_NK.double(), split.ref_logp_NK.double().log_softmax(-1)
    logp_NK = logp_NK.double().log_softmax(-1)
    best_share_K = torch.bincount(score_NK.argmax(-1), minlength=len(labels)) / len(score_NK)
    win_N, tie_N = objective.win_and_tie_N(logp_NK, ref_logp_NK, score_NK)
    return {
        "expected_score": objective.expected_score_N(logp_NK, score_NK).mean().item(),
        "objective": objective.objective_N(logp_NK, ref_logp_NK, score_NK, beta).mean().item(),
        "optimum_objective": objective.optimum_objective_N(ref_logp_NK, score_NK, beta).mean().item(),
        "optimum_fraction": objective.optimum_fraction(logp_NK, ref_logp_NK, score_NK, beta),
        "frontier_distance": objective.frontier_distance_N(logp_NK, ref_logp_NK, score_NK).mean().item(),
        "win_rate": (win_N + tie_N / 2).mean().item(),
        "tie_rate": tie_N.mean().item(),
        **describe(logp_NK, ref_logp_NK, split.questions, labels),
        "grader_histogram": dict(zip(labels.names, best_share_K.tolist(), strict=True)),
    }


def before_after(
    split: SplitGrades, logits_before_NK: Tensor, logits_after_NK: Tensor, labels: LabelSet, seed: int
) -> pd.DataFrame:
    """One row per question: question, wanted, grader's scores, then the policy's logits, probabilities and sampled
    counts, before and after. The counts are of 50 draws each, from a generator of their own; `change` is the total
    variation distance between before and after.
    """
    columns: dict[str, Any] = {"question": split.questions.texts}
    if split.questions.label_ids is not None:
        columns["wanted"] = [labels.names[i] for i in split.questions.label_ids]
    for k, name in enumerate(labels.names):
        columns[f"score_{name}"] = split.score_NK[:, k].tolist()
    probabilities = {}
    for when, logits_NK in (("before", logits_before_NK), ("after", logits_after_NK)):
        generator = torch.Generator().manual_seed(seed)
        p_NK = probabilities[when] = logits_NK.softmax(-1)
        draws_NS = torch.multinomial(p_NK, SAMPLES_PER_QUESTION, replacement=True, generator=generator)
        for k, name in enumerate(labels.names):
            columns[f"{when}_logit_{name}"] = logits_NK[:, k].tolist()
            columns[f"{when}_probability_{name}"] = p_NK[:, k].tolist()
            columns[f"{when}_count_{name}"] = (draws_NS == k).sum(1).tolist()
    columns["change"] = (0.5 * (probabilities["after"] - probabilities["before"]).abs().sum(1)).tolist()
    return pd.DataFrame(columns)
