"""A made-up comparison for the tests of its report: random numbers with all columns that the report reads."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.config.registry import METHODS
from eightball_ppo.report.style import row_name

QUESTIONS = {"train": 600, "heldout": 150}
GROUP = ["method", "threshold", "beta", "split", "noise", "budget"]


def comparison_data(
    *,
    methods: Iterable[str] = tuple(METHODS),
    thresholds: Sequence[float] = (),
    seeds: int = 3,
    betas: Sequence[float] = (0.1, 0.5),
    conditions: Sequence[tuple[str, int | None]] = (("", None),),
    labels: Sequence[str] = ("Yes", "No", "Maybe"),
    gold: bool = True,
    failed_runs: Sequence[dict[str, Any]] = (),
    **overrides: Any,
) -> ComparisonData:
    """Every frame of the report; a failed run (in `failed_runs`) has no row anywhere else."""
    kinds = [(method, math.nan) for method in methods] + [("distill", threshold) for threshold in thresholds]
    failed = {(run["method"], run["beta"], run["seed"], run["noise"], run["budget"]) for run in failed_runs}
    results: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for (method, threshold), beta, seed, (noise, budget) in itertools.product(kinds, betas, range(seeds), conditions):
        if (method, beta, seed, noise, budget) in failed or (method == "sft" and (noise or budget)):
            continue
        rng = np.random.default_rng([seed, *map(ord, row_name(method, threshold))])
        run = {"method": method, "threshold": threshold, "seed": seed, "reference": 0}
        run |= {"beta": beta, "noise": noise, "budget": budget}
        episodes = 48_000 if METHODS[method].samples else 0
        cost = {"episodes": episodes, "grader_calls": budget or 3 * QUESTIONS["train"], "seconds": 60.0}
        for split in QUESTIONS:
            record = _record(rng, method, beta, split, labels, gold and split == "heldout")
            run_dir = f"runs/compare/{row_name(method, threshold)}-{beta}-{seed}"
            results.append({**run, "split": split, "run_dir": run_dir, **cost, **record})
        end = results[-2]
        for share in np.linspace(0, 1, 9) if episodes else (1.0,):
            values = {name: share * end[name] for name in ("optimum_fraction", "expected_score", "kl")}
            calls = end["grader_calls"] * (share if episodes else 1)
            curves.append({**run, "episode": episodes * share, "grader_calls": calls, **values})
    frame = pd.DataFrame(results)
    points = itertools.product(QUESTIONS, np.linspace(0.01, 1.2, 30))
    frontier = [{"split": split, "beta": 0.1 / kl, "kl": kl, "expected_score": 2 * kl**0.5 - 2} for split, kl in points]
    fields: dict[str, Any] = {
        "results": frame,
        "intervals": _intervals(frame),
        "pairs": _pairs(frame),
        "frontier": pd.DataFrame(frontier),
        "curves": pd.DataFrame(curves),
        "confidence": _confidence(frame) if gold else pd.DataFrame(),
        "coverage": pd.DataFrame(
            [{"threshold": t, "coverage": 1 - t**4, "accuracy": 0.5 + t / 2 if gold else None} for t in (0, 0.5, 0.9)]
        ),
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
    return ComparisonData(**fields | overrides)


def small(**overrides: Any) -> ComparisonData:
    """One seed, one beta, two labels, and no gold labels."""
    settings: dict[str, Any] = {"seeds": 1, "betas": (0.1,), "labels": ("good", "bad"), "gold": False}
    return comparison_data(methods=("sft", "ppo", "distill"), **settings | overrides)


def thirty_labels() -> ComparisonData:
    """Thirty labels, most with long names, and few figures."""
    labels = [f"a label of many words {i}" if i % 3 else f"L{i}" for i in range(30)]
    return small(gold=True, labels=labels, curves=pd.DataFrame(), coverage=pd.DataFrame())


def _record(
    rng: np.random.Generator, method: str, beta: float, split: str, labels: Sequence[str], gold: bool
) -> dict[str, Any]:
    fraction = 0.0 if method == "sft" else float(rng.uniform(0.3, 0.99))
    histograms = {
        f"{kind}_histogram": dict(zip(labels, rng.dirichlet(np.ones(len(labels))).tolist(), strict=True))
        for kind in ("label", "greedy", "grader")
    }
    return {
        **{"questions": QUESTIONS[split], "expected_score": 2 * fraction - 2, "objective": fraction - beta},
        **{"optimum_objective": 1 - beta, "optimum_fraction": fraction, "kl": fraction, "entropy": 1 - fraction},
        **{"gold_accuracy": fraction if gold else None, "gold_probability": fraction if gold else None},
        **dict.fromkeys(("brier", "nll", "ece", "aurc"), 1 - fraction if gold else None),
        **{"optimum_confidence": 0.9, "judge_agreement": fraction},
        **{"win_rate": (1 + fraction) / 2, "tie_rate": 0.1, "frontier_distance": 1 - fraction, **histograms},
    }


def _confidence(results: pd.DataFrame) -> pd.DataFrame:
    rng, parts = np.random.default_rng(0), []
    for row in results[results["split"] == "heldout"].to_dict("records"):
        confidence = rng.uniform(0.3, 1, 60)
        answers = {"confidence": confidence, "correct": (rng.random(60) < confidence).astype(float)}
        key = {name: row[name] for name in ("method", "threshold", "beta", "noise", "budget", "seed")}
        parts.append(pd.DataFrame({**answers, **key}))
    return pd.concat(parts, ignore_index=True)


def _intervals(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, runs in results.groupby(GROUP, dropna=False):
        for metric in ("optimum_fraction", "objective", "frontier_distance", "gold_accuracy", "brier"):
            values = runs[metric].dropna().astype(float)
            if len(values):
                half = 0.01 + 2 * float(values.std(ddof=0))
                ends = {"estimate": values.mean(), "low": values.mean() - half, "high": values.mean() + half}
                rows.append({**dict(zip(GROUP, key, strict=True)), "metric": metric, **ends, "seeds": len(values)})
    return pd.DataFrame(rows)


def _pairs(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    named = results.assign(name=[row_name(*kind) for kind in zip(results["method"], results["threshold"], strict=True)])
    condition = ["beta", "split", "noise", "budget"]
    for key, runs in named.groupby(condition, dropna=False):
        for metric, (a, b) in itertools.product(
            ("objective", "gold_accuracy"), itertools.combinations(sorted(set(runs["name"])), 2)
        ):
            first, second = (runs[runs["name"] == name][metric].dropna().astype(float).to_numpy() for name in (a, b))
            if not len(first) or not len(second):
                continue
            estimate = float(first.mean() - second.mean())
            p = math.exp(-abs(estimate) * 60)
            ends = {"estimate": estimate, "low": estimate - 0.03, "high": estimate + 0.03}
            verdict = None if len(first) == 1 else "ahead" if p * 36 < 0.05 else "undecided"
            tested = {"p_value": p, "p_holm": min(1, p * 36), "verdict": verdict, "seeds": len(first)}
            tested |= {"primary": False, "p_equal_holm": 1.0, "detectable": 0.05}
            sentence = f"{a} and {b} at beta {key[0]:g}: {estimate:+.3f}."
            row = {"a": a, "b": b, "metric": metric, **ends, **tested, "sentence": sentence}
            rows.append({**dict(zip(condition, key, strict=True)), **row})
    return pd.DataFrame(rows)


def _flips(labels: Sequence[str], methods: Sequence[str], gold: bool) -> pd.DataFrame:
    rows = []
    for place in range(45):
        before, after = labels[place % len(labels)], labels[(place + 1) % len(labels)]
        question = f"Will our flight home turn out the way I have been hoping for, {place} times now?"
        gold_label = (after if place % 4 else before) if gold else None
        label = {"question": question, "gold_label": gold_label, "grader": after}
        method = {"method": methods[place % len(methods)], "beta": 0.1, "before": before, "after": after}
        p = {"p_before": 0.01 + 0.001 * place, "p_after": 0.99 - 0.002 * place, "change": 0.98 - 0.003 * place}
        rows.append({**label, **method, **p})
    return pd.DataFrame(rows)
