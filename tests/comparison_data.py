"""A made-up comparison for the tests of its report: a small problem, its true frontier, and runs beside its optimum."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.report.style import row_name

QUESTIONS = {"train": 600, "heldout": 150}
# how far a method goes (share of the optimum's logits), what it does off the optimum's path, episodes, calls a question
METHODS: dict[str, tuple[float, float, int, int]] = {
    "sft": (0.0, 0.0, 0, 0),
    "distill": (0.97, 0.9, 0, 3),
    "distill_soft": (0.95, 0.7, 0, 3),
    "distill_boltzmann": (0.985, 0.3, 0, 3),
    "ppo": (0.96, 0.45, 48000, 3),
    "rloo": (0.86, 0.8, 48000, 3),
    "grpo": (0.8, 1.0, 48000, 3),
    "best_of_n": (0.6, 0.5, 0, 2),
    "exact": (0.995, 0.05, 24000, 3),
}
Array = NDArray[np.float64]


class Problem:
    """Reference, grader's scores and wishes for the questions of one split."""

    def __init__(self, questions: int, labels: int, seed: int):
        rng = np.random.default_rng(seed)
        self.ref = _softmax(rng.normal(0, 2, (questions, labels)))
        self.gold: NDArray[np.int64] = rng.integers(0, labels, questions)
        sure = rng.normal(0, 1, (questions, labels))
        sure[np.arange(questions), self.gold] += 4.5
        self.score = np.log(_softmax(sure))

    def optimum(self, beta: float) -> Array:
        return _softmax(np.log(self.ref) + self.score / beta)

    def kl(self, policy: Array) -> float:
        return float((policy * np.log(np.maximum(policy, 1e-300) / self.ref)).sum(1).mean())

    def expected(self, policy: Array) -> float:
        return float((policy * self.score).sum(1).mean())


def _softmax(logits: Array) -> Array:
    exponential = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponential / exponential.sum(1, keepdims=True))


def _histogram(share: Array, labels: Sequence[str]) -> dict[str, float]:
    return dict(zip(labels, share.tolist(), strict=True))


def _policy(problem: Problem, beta: float, reach: float, stray: float, wrong: float, rng: np.random.Generator) -> Array:
    """Some questions are learned, some are missed, and off the training questions some are got wrong."""
    luck = rng.random(len(problem.ref))[:, None]
    logits = np.where(luck > 1 - wrong, np.roll(problem.score, 1, axis=1), problem.score) / beta
    share = np.where((luck < reach) | (luck > 1 - wrong), 1.0, 0.05) * (reach > 0)
    return _softmax(np.log(problem.ref) + share * (logits + stray * rng.normal(0, 1, logits.shape)))


def _measured(problem: Problem, policy: Array, beta: float, labels: Sequence[str], gold: bool) -> dict[str, Any]:
    j_ref, best = problem.expected(problem.ref), problem.optimum(beta)
    j_best = problem.expected(best) - beta * problem.kl(best)
    kl, score = problem.kl(policy), problem.expected(policy)
    greedy, favourite = policy.argmax(1), problem.score.argmax(1)
    won = problem.score[np.arange(len(greedy)), greedy] - problem.expected(problem.ref)
    return {
        "questions": len(policy),
        "expected_score": score,
        "objective": score - beta * kl,
        "optimum_objective": j_best,
        "optimum_fraction": (score - beta * kl - j_ref) / (j_best - j_ref),
        "kl": kl,
        "entropy": float(-(policy * np.log(np.maximum(policy, 1e-300))).sum(1).mean()),
        "gold_accuracy": float((greedy == problem.gold).mean()) if gold else None,
        "gold_probability": float(policy[np.arange(len(greedy)), problem.gold].mean()) if gold else None,
        "win_rate": float((won > 0).mean()) if kl > 0 else 0.5,
        "tie_rate": 0.1,
        "frontier_distance": max(0.0, _frontier_score(problem, kl) - score),
        "label_histogram": _histogram(policy.mean(0), labels),
        "greedy_histogram": _histogram(np.bincount(greedy, minlength=len(labels)) / len(greedy), labels),
        "grader_histogram": _histogram(np.bincount(favourite, minlength=len(labels)) / len(greedy), labels),
    }


def _frontier(problem: Problem) -> list[tuple[float, float, float]]:
    policies = {float(beta): problem.optimum(beta) for beta in np.geomspace(0.02, 50, 60)}
    return [(beta, problem.kl(policy), problem.expected(policy)) for beta, policy in policies.items()]


def _frontier_score(problem: Problem, kl: float) -> float:
    if not hasattr(problem, "curve"):
        problem.curve = sorted((own[1], own[2]) for own in _frontier(problem))  # type: ignore[attr-defined]
    curve = problem.curve  # type: ignore[attr-defined]
    return float(np.interp(kl, [own[0] for own in curve], [own[1] for own in curve]))


def comparison_data(
    *,
    methods: Iterable[str] = tuple(METHODS),
    thresholds: Sequence[float] = (),
    seeds: int = 3,
    betas: Sequence[float] = (0.1, 0.5),
    conditions: Sequence[tuple[float, int | None]] = ((0.0, None),),
    labels: Sequence[str] = ("Yes", "No", "Maybe"),
    gold: bool = True,
    failed_runs: Sequence[dict[str, Any]] = (),
    **overrides: Any,
) -> ComparisonData:
    """The whole contract; a run that is in `failed_runs` has no row anywhere else."""
    problems = {split: Problem(n, len(labels), place) for place, (split, n) in enumerate(QUESTIONS.items())}
    kinds = [(method, math.nan) for method in methods] + [("distill", threshold) for threshold in thresholds]
    lost = {(hole["method"], hole["beta"], hole["seed"], hole["noise"], hole["budget"]) for hole in failed_runs}
    results: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for (method, threshold), beta, seed, (noise, budget) in itertools.product(kinds, betas, range(seeds), conditions):
        if (method, beta, seed, noise, budget) in lost or (method == "sft" and (noise or budget)):
            continue
        reach, stray, episodes, calls = METHODS[method]
        rng = np.random.default_rng([seed, *map(ord, method)])
        own = {"method": method, "threshold": threshold, "seed": seed, "beta": beta, "noise": noise, "budget": budget}
        reach *= (1 - noise) * (1 if budget is None else min(1, 0.5 + budget / 2400)) * rng.uniform(0.98, 1)
        reach *= 1 if math.isnan(threshold) else 1 - 0.3 * threshold**8
        aimed = 0.02 if method in ("distill", "distill_soft") else beta  # they do not know the price
        for split, problem in problems.items():
            alone = split == "heldout" and method not in ("best_of_n", "sft")
            policy = _policy(problem, aimed, reach * (0.65 if alone else 1), stray, 0.2 * alone, rng)
            spent = {
                "episodes": episodes,
                "grader_calls": budget or calls * QUESTIONS["train"],
                "seconds": 20 + episodes / 700,
            }
            run_dir = f"runs/compare/{row_name(method, threshold)}-{beta}-{seed}"
            own_gold = gold and split == "heldout"
            results.append(
                own | {"split": split, "run_dir": run_dir} | spent | _measured(problem, policy, beta, labels, own_gold)
            )
        last = results[-2]
        for t in np.linspace(0, 1, 40) if episodes else (1.0,):
            done = (1 - math.exp(-5 * t)) / (1 - math.exp(-5)) + (rng.normal(0, 0.006) if 0 < t < 1 else 0)
            curves.append(
                own
                | {
                    "episode": episodes * t,
                    "grader_calls": last["grader_calls"] * (1 - math.exp(-9 * t)) if episodes else last["grader_calls"],
                }
                | {
                    "optimum_fraction": done * last["optimum_fraction"],
                    "expected_score": last["expected_score"] * done,
                    "kl": done * last["kl"],
                }
            )
    frame = pd.DataFrame(results)
    whole: dict[str, Any] = {
        "results": frame,
        "intervals": _intervals(frame),
        "pairs": _pairs(frame),
        "frontier": pd.DataFrame(
            [
                {"split": split, "beta": b, "kl": kl, "expected_score": s}
                for split in problems
                for b, kl, s in _frontier(problems[split])
            ]
        ),
        "curves": pd.DataFrame(curves),
        "coverage": _coverage(problems["heldout"], gold),
        "flips": _flips(labels, [method for method in methods if method != "sft"], gold),
        "failed_runs": list(failed_runs),
        "headline": [
            "On held-out questions at beta 0.1 exact comes first (0.62 of the optimum) and best_of_n second (0.58).",
            "PPO's lead over distill@0.99 cannot be told from chance: 0.012 (-0.020 to 0.041), p 0.44 after Holm.",
        ],
        "settings": {"seeds": list(range(seeds)), "betas": list(betas), "grader": "bert", "max_grader_calls": None},
        "environment": {"python": "3.11.2", "torch": "2.13.0", "platform": "Linux-x86_64", "cores": 2},
        "command": "python scripts/compare.py --methods sft distill ppo exact --betas 0.1 0.5 \\\n    --seeds 0 1 2",
        "grader": "bert: runs/reward, sha256 4f0c8d3aa1",
        "labels": list(labels),
        "dataset": "datasets/eightball",
    }
    return ComparisonData(**whole | overrides)


def small(**overrides: Any) -> ComparisonData:
    """One seed, one beta, two labels, and nobody knows what was wanted."""
    settings: dict[str, Any] = {"seeds": 1, "betas": (0.1,), "labels": ("good", "bad"), "gold": False}
    return comparison_data(methods=("sft", "ppo", "distill"), **settings | overrides)


def thirty_labels() -> ComparisonData:
    """Thirty labels, most with long names, and few figures."""
    labels = [f"a label of many words {i}" if i % 3 else f"L{i}" for i in range(30)]
    return small(gold=True, labels=labels, curves=pd.DataFrame(), coverage=pd.DataFrame())


GROUP = ["method", "threshold", "beta", "split", "noise", "budget"]


def _intervals(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, own in results.groupby(GROUP, dropna=False):
        for metric in ("optimum_fraction", "objective", "frontier_distance", "gold_accuracy"):
            values = own[metric].dropna().astype(float)
            if len(values):
                half = 0.01 + 2 * float(values.std(ddof=0)) + (0.05 if metric == "gold_accuracy" else 0)
                ends = {"estimate": values.mean(), "low": values.mean() - half, "high": values.mean() + half}
                rows.append({**dict(zip(GROUP, key, strict=True)), "metric": metric, **ends, "seeds": len(values)})
    return pd.DataFrame(rows)


def _pairs(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    named = results.assign(name=[row_name(*own) for own in zip(results["method"], results["threshold"], strict=True)])
    for key, own in named.groupby(["beta", "split", "noise", "budget"], dropna=False):
        for metric, (a, b) in itertools.product(
            ("optimum_fraction", "gold_accuracy"), itertools.combinations(sorted(set(own["name"])), 2)
        ):
            first, second = (own[own["name"] == name][metric].dropna().astype(float).to_numpy() for name in (a, b))
            if not len(first) or not len(second):
                continue
            estimate = float(first.mean() - second.mean())
            p = math.exp(-abs(estimate) * 60)
            clear = p * 36 < 0.05
            verdict = ("is ahead of" if estimate > 0 else "is behind") if clear else "cannot be told from"
            interval = f"{estimate:+.3f} ({estimate - 0.03:.3f} to {estimate + 0.03:.3f})"
            rows.append(
                {
                    **dict(zip(("beta", "split", "noise", "budget"), key, strict=True)),
                    **{
                        "a": a,
                        "b": b,
                        "metric": metric,
                        "estimate": estimate,
                        "low": estimate - 0.03,
                        "high": estimate + 0.03,
                    },
                    **{
                        "p_value": p,
                        "p_holm": min(1, p * 36),
                        "effect_size": estimate / 0.02 if len(first) > 1 else None,
                    },
                    **{"seeds": len(first), "distinguishable": clear},
                    "sentence": f"{a} {verdict} {b} at beta {key[0]:g}: {interval}.",
                }
            )
    return pd.DataFrame(rows)


def _coverage(problem: Problem, gold: bool) -> pd.DataFrame:
    confidence, right = np.exp(problem.score).max(1), problem.score.argmax(1) == problem.gold
    rows = []
    for threshold in (0.0, 0.34, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0):
        kept = confidence >= threshold
        accuracy = float(right[kept].mean()) if gold and kept.any() else None
        rows.append({"threshold": threshold, "coverage": float(kept.mean()), "accuracy": accuracy})
    return pd.DataFrame(rows)


def _flips(labels: Sequence[str], methods: Sequence[str], gold: bool) -> pd.DataFrame:
    subjects = (
        "my garden",
        "the interview on Monday",
        "our flight home through three airports",
        "the old car",
        "the soup",
    )
    rows = []
    for place in range(45):
        before, after = labels[place % len(labels)], labels[(place + 1) % len(labels)]
        question = f"Will {subjects[place % 5]} turn out the way I have been hoping for, {place} times now?"
        rows.append(
            {
                **{
                    "question": question,
                    "gold_label": (after if place % 4 else before) if gold else None,
                    "grader": after,
                },
                **{"method": methods[place % len(methods)], "beta": 0.1, "before": before, "after": after},
                **{"p_before": 0.01 + 0.001 * place, "p_after": 0.99 - 0.002 * place, "change": 0.98 - 0.003 * place},
            }
        )
    return pd.DataFrame(rows)
