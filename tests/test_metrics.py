"""docs/metrics.md defines every number that a run writes; each is computed again here in plain Python.

`test_sampled_metrics.py` does so for the sampled metrics.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest
import torch
from plain_formulas import Row, entropy, log_softmax
from scipy.stats import chi2
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import REPOSITORY
from eightball_ppo.comparison.grid import RunSpec
from eightball_ppo.config.methods import BestOfNConfig, DistillConfig, ExactConfig, GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.functional.statistics import Interval, PairComparison
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.report import plots
from eightball_ppo.runtime.run import read_metrics, read_results

LABELS = ("Yes", "No", "Maybe")
BETA = 0.3


METHODS: dict[str, tuple[type, dict[str, Any]]] = {
    "ppo": (PPOConfig, {"total_episodes": 240, "repeats_per_epoch": 2, "log_completions": True}),
    "distill": (DistillConfig, {"num_train_epochs": 1}),
    "rloo": (RLOOConfig, {"total_episodes": 360}),
    "grpo": (GRPOConfig, {"total_episodes": 360, "kl_in_reward": False}),  # logs `kl`, since it is in the loss
    "exact": (ExactConfig, {"num_train_epochs": 3}),
    "best_of_n": (BestOfNConfig, {}),
}


@pytest.fixture(scope="module")
def train(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path
) -> Iterator[Callable[[str], Path]]:
    """`train(method)`: a short run."""
    shared: dict[str, Any] = {"dataset_name": str(small_data), "allow_weak_grader": True, "disable_tqdm": True}
    shared |= {"sft_model_path": str(sft_run), "reward_model_path": str(reward_run), "kl_coef": BETA}

    def run(method: str) -> Path:
        config_class, options = METHODS[method]
        return run_method(config_class(output_dir=str(tmp_path_factory.mktemp("run") / method), **shared, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "plot_curves", lambda *_: None)
        patch.setattr(plots, "plot_label_histogram", lambda *_: None)
        yield run


@pytest.fixture(scope="module")
def runs(train: Callable[[str], Path]) -> dict[str, Path]:
    return {method: train(method) for method in ("ppo", "distill")}


def defined() -> set[str]:
    """The names of the page: what stands in backquotes in the first column."""
    lines = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    firsts = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return {name for first in firsts for name in re.findall(r"`([^`]+)`", first)}


def written(runs: list[Path]) -> set[str]:
    """Every name that is written: rows, records, completions, and what a comparison adds."""
    found: set[str] = set()
    for run in runs:
        results = read_results(run)
        found |= {key for row in read_metrics(run) for key in row}
        found |= {f"grades.{key}" for key in results.pop("grades", {})}
        records = [*results.pop("splits").values(), *results.pop("reference", {}).values()]
        found |= {key for record in records for key in record}
        found |= set(results)
        for file in run.glob("completions/*.parquet"):
            found |= set(map(str, pd.read_parquet(file)))
    found |= {field.name for field in dataclasses.fields(RunSpec)} | {"split", "run_dir"}
    found |= {field.name for kind in (Interval, PairComparison) for field in dataclasses.fields(kind)}
    return found - {"a", "b", "difference"}  # a pair's names, and its interval


@pytest.mark.slow
def test_the_page_defines_every_written_metric_and_no_other(
    runs: dict[str, Path], train: Callable[[str], Path], sft_run: Path, reward_run: Path
) -> None:
    others = [train(method) for method in METHODS if method not in runs]
    gold = ("accuracy", "probability", "brier", "nll", "ece", "aurc")
    elsewhere = {f"label_{name}" for name in gold}  # of labels that are not gold: see tests/test_one_file.py
    elsewhere |= {"calibration_questions"}  # see tests/test_calibrate.py
    found = written([*runs.values(), *others, sft_run, reward_run])
    assert defined() - elsewhere == (found | {"primary", "score_at_equal_kl"}) - elsewhere


def table_of(run: Path, questions: Sequence[str]) -> list[list[float]]:
    """Log-probabilities of a saved classifier, one question at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    model.eval()
    found = []
    for question in questions:
        with torch.no_grad():
            logits = model(**tokenizer(question, truncation=True, return_tensors="pt")).logits[0]
        found.append(log_softmax(logits.tolist()))
    return found


def optimum(reference: Row, score: Row, beta: float) -> list[float]:
    return log_softmax([r + s / beta for r, s in zip(reference, score, strict=True)])


def expected(logp: Row, score: Row) -> float:
    return sum(math.exp(p) * s for p, s in zip(logp, score, strict=True))


def divergence(logp: Row, reference: Row) -> float:
    return sum(math.exp(p) * (p - r) for p, r in zip(logp, reference, strict=True))


def best_at(kl: float, reference: list[list[float]], score: list[list[float]]) -> float:
    """The best mean score at a mean KL: that of the optimum at the beta that has this KL."""
    low, high = -12.0, 12.0  # of log beta
    for _ in range(200):
        beta = math.exp((low + high) / 2)
        best = [optimum(r, s, beta) for r, s in zip(reference, score, strict=True)]
        used = fmean(divergence(p, r) for p, r in zip(best, reference, strict=True))
        low, high = ((low + high) / 2, high) if used > kl else (low, (low + high) / 2)
    return fmean(expected(p, s) for p, s in zip(best, score, strict=True))


def record_by_hand(
    logp: list[list[float]], reference: list[list[float]], score: list[list[float]], gold: list[int] | None
) -> dict[str, Any]:
    """What results.json says of a policy on a split."""
    rows = list(zip(logp, reference, score, strict=True))
    won, tied = [], []
    for p, r, s in rows:
        pairs = [(math.exp(p[a] + r[b]), s[a] - s[b]) for a, b in itertools.product(range(len(LABELS)), repeat=2)]
        won.append(sum(weight for weight, gap in pairs if gap > 0))
        tied.append(sum(weight for weight, gap in pairs if gap == 0))
    kl, mean_score = fmean(divergence(p, r) for p, r, _ in rows), fmean(expected(p, s) for p, _, s in rows)
    start = fmean(expected(r, s) for _, r, s in rows)
    best = [optimum(r, s, BETA) for _, r, s in rows]
    top = fmean(BETA * math.log(sum(math.exp(x + y / BETA) for x, y in zip(r, s, strict=True))) for _, r, s in rows)

    def argmax(row: Row) -> int:
        return max(range(len(LABELS)), key=row.__getitem__)

    def share(table: list[list[float]], label: int) -> float:
        return fmean(float(argmax(row) == label) for row in table)

    record: dict[str, Any] = {
        "questions": len(rows),
        "expected_score": mean_score,
        "kl": kl,
        "entropy": fmean(entropy(p) for p in logp),
        "objective": mean_score - BETA * kl,
        "optimum_objective": top,
        "optimum_confidence": fmean(math.exp(max(row)) for row in best),
        "optimum_fraction": (mean_score - BETA * kl - start) / (top - start),
        "frontier_distance": best_at(kl, reference, score) - mean_score,
        "win_rate": fmean(won) + fmean(tied) / 2,
        "tie_rate": fmean(tied),
        "judge_agreement": fmean(float(argmax(p) == argmax(s)) for p, _, s in rows),
        "label_histogram": {n: fmean(math.exp(p[a]) for p in logp) for a, n in enumerate(LABELS)},
        "greedy_histogram": {name: share(logp, a) for a, name in enumerate(LABELS)},
        "grader_histogram": {name: share(score, a) for a, name in enumerate(LABELS)},
    }
    if gold is not None:
        right = [argmax(p) == a for p, a in zip(logp, gold, strict=True)]
        record["gold_accuracy"] = fmean(map(float, right))
        record["gold_probability"] = fmean(math.exp(p[a]) for p, a in zip(logp, gold, strict=True))
        squares = ((math.exp(p[k]) - (k == a)) ** 2 for p, a in zip(logp, gold, strict=True) for k in range(len(p)))
        record["brier"] = sum(squares) / len(gold)
        record["nll"] = fmean(-p[a] for p, a in zip(logp, gold, strict=True))
        record["ece"] = calibration_error(logp, gold)
        sure = sorted(zip((max(p) for p in logp), right, strict=True), reverse=True)
        wrong = list(itertools.accumulate(not hit for _, hit in sure))
        record["aurc"] = fmean(count / (n + 1) for n, count in enumerate(wrong))
    return record


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("split", "file"), [("train", "rl"), ("heldout", "heldout")])
def test_the_record_of_a_run_by_hand(
    split: str, file: str, runs: dict[str, Path], small_data: Path, sft_run: Path, reward_run: Path
) -> None:
    """From the saved policy, reference and reward model; and the last `exact/*`, which are of the same policy."""
    rows = lines(small_data / f"{file}.jsonl")
    questions = [row["question"] for row in rows]
    gold = [LABELS.index(row["answer"]) for row in rows] if split == "heldout" else None
    reference, score = table_of(sft_run, questions), table_of(reward_run, questions)
    for method in ("ppo", "distill"):
        results = read_results(runs[method])
        mine = record_by_hand(table_of(runs[method], questions), reference, score, gold)
        assert set(mine) == set(results["splits"][split])
        for name, value in mine.items():
            near = value if value is None else pytest.approx(value, rel=1e-4, abs=2e-5)
            assert results["splits"][split][name] == near, (method, name)
        assert mine["kl"] > 1e-4
        start = record_by_hand(reference, reference, score, gold)
        assert results["reference"][split]["expected_score"] == pytest.approx(start["expected_score"], rel=1e-4)
        if split == "train":
            last = [row for row in read_metrics(runs[method]) if "exact/kl" in row][-1]
            for name in ("expected_score", "kl", "entropy", "objective", "optimum_fraction"):
                assert last[f"exact/{name}"] == pytest.approx(mine[name], rel=1e-4, abs=2e-5), name


@pytest.mark.slow
def test_grader_calls_count_the_distinct_sampled_answers(runs: dict[str, Path]) -> None:
    """One update and two: the completions of both hold every answer of the run."""
    seen: set[tuple[str, str]] = set()
    rows = [row for row in read_metrics(runs["ppo"]) if "episode" in row]
    files = sorted(runs["ppo"].glob("completions/*.parquet"))
    assert len(files) == len(rows) == 2
    for row, file in zip(rows, files, strict=True):
        table = pd.read_parquet(file)
        seen |= set(zip(table["question"], table["answer"], strict=True))
        assert row["grader_calls"] == len(seen)
    assert read_results(runs["ppo"])["grader_calls"] == len(seen)
    assert read_results(runs["distill"])["grader_calls"] == 60 * 3


@pytest.mark.slow
def test_coverage_and_thresholds_by_hand(runs: dict[str, Path], small_data: Path, reward_run: Path) -> None:
    results = read_results(runs["distill"])
    score = table_of(reward_run, [row["question"] for row in lines(small_data / "rl.jsonl")])
    kept = sum(math.exp(max(row)) >= results["threshold"] for row in score)
    assert results["kept_questions"] == kept and results["coverage"] == pytest.approx(kept / 60)
    best = max(results["thresholds_tried"], key=lambda row: row["validation_score"])
    assert best["threshold"] == results["threshold"]


def calibration_error(logp: list[list[float]], gold: list[int]) -> float:
    """Over 15 bins of as many questions each, by confidence."""
    entries = [(math.exp(max(row)), row.index(max(row)) == label) for row, label in zip(logp, gold, strict=True)]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for place, entry in enumerate(sorted(entries)):
        bins.setdefault(15 * place // len(entries), []).append(entry)
    gaps = [
        abs(fmean(float(right) for _, right in found) - fmean(sure for sure, _ in found)) for found in bins.values()
    ]
    return sum(len(found) * gap for found, gap in zip(bins.values(), gaps, strict=True)) / len(logp)


def test_the_reward_models_record_by_hand(reward_run: Path, small_data: Path) -> None:
    rows = lines(small_data / "heldout.jsonl")
    gold = [LABELS.index(row["answer"]) for row in rows]
    logp = table_of(reward_run, [row["question"] for row in rows])
    results = read_results(reward_run)
    record, temperature = results["splits"]["heldout"], results["temperature"]
    predicted = [max(range(3), key=row.__getitem__) for row in logp]
    assert record["accuracy"] == pytest.approx(fmean(float(a == b) for a, b in zip(predicted, gold, strict=True)))
    assert record["gold_accuracy"] == pytest.approx(record["accuracy"])
    for a, name in enumerate(LABELS):
        hits = sum(x == a and y == a for x, y in zip(predicted, gold, strict=True))
        wrong = sum((x == a) != (y == a) for x, y in zip(predicted, gold, strict=True))
        assert record["f1"][name] == pytest.approx(2 * hits / (2 * hits + wrong) if hits else 0.0)
    before = [log_softmax([x * temperature for x in row]) for row in logp]
    assert record["ece"] == pytest.approx(calibration_error(logp, gold), abs=1e-4)
    assert record["ece_before_scaling"] == pytest.approx(calibration_error(before, gold), abs=1e-4)


def test_the_prior_p_value_of_sft_by_hand(sft_run: Path, small_data: Path) -> None:
    record = read_results(sft_run)["splits"]["heldout"]
    trained = [row["answer"] for row in lines(small_data / "sft.jsonl")]
    assert record["training_counts"] == {name: trained.count(name) for name in LABELS}
    table = [list(record[f"{name}_counts"].values()) for name in ("training", "sampled")]
    columns, total = [sum(column) for column in zip(*table, strict=True)], sum(map(sum, table))
    statistic = 0.0
    for row in table:
        for seen, column in zip(row, columns, strict=True):
            expectation = sum(row) * column / total
            statistic += (seen - expectation) ** 2 / expectation
    assert record["prior_p_value"] == pytest.approx(chi2.sf(statistic, 2))
