"""Recomputes every metric of a comparison or of one run from its files, with independent formulas.

OMP_NUM_THREADS=1 python benchmarks/recompute.py runs/compare    # where compare ran: the path of the data is relative
OMP_NUM_THREADS=1 python benchmarks/recompute.py runs/ppo        # likewise: its config.yaml names reference and grades

For a comparison it reads `results.parquet`, `grades.parquet`, `reference/` and the saved policy and tokenizer of every
`run_dir`; for a run `results.json`, its policy, and the reference and the grade table or store that `config.yaml`
names; for both the questions and gold labels of the dataset. It uses the package only to load policies through the Auto
classes. Its batches differ from those of the run, so float32 may round differently. Prints the largest difference of
each metric and exits with 1 if one is above 1e-6.

Letters: N questions, K labels.
"""

import argparse
import json
import math
import sqlite3
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import eightball_ppo  # noqa: F401  for the Auto classes

Array = NDArray[np.float64]
LARGEST = 1e-6
EMBEDDED = Path(__file__).parents[1] / "datasets"  # data sets that are named, not a path
FILES = {"train": "rl", "heldout": "heldout"}
HISTOGRAMS = ("label_histogram", "greedy_histogram", "grader_histogram")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def logp_of(scores_NK: Array) -> Array:
    """Normalised over labels."""
    shifted_NK = scores_NK - scores_NK.max(1, keepdims=True)
    return np.asarray(shifted_NK - np.log(np.exp(shifted_NK).sum(1, keepdims=True)))


def grades_of(file: Path, labels: list[str]) -> dict[str, Array]:
    """The grader's log-probabilities [K] of every question with all grades, in float32 as the methods read them."""
    frame = pd.read_parquet(file)
    about = json.loads((pq.read_schema(file).metadata or {}).get(b"eightball_ppo", b"{}"))
    good = frame[frame["status"] == "ok"].pivot(index="question", columns="label", values="score")
    good = good.reindex(columns=labels).dropna()
    logp_NK = good.to_numpy(float)
    if about.get("scale") == "rating":
        logp_NK = logp_of(logp_NK)
    return dict(zip(good.index, logp_NK.astype(np.float32).astype(float), strict=True))


def grades_in(store: Path, grader: str, labels: list[str]) -> dict[str, Array]:
    """The same from a grade store: one row of K log-probabilities per question, or one rating per label."""
    rows = "SELECT question, label, scores FROM grades, graders WHERE grader = id AND fingerprint = ? AND status = 'ok'"
    by_question: dict[str, dict[str, tuple[float, ...]]] = {}
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        for question, label, scores in db.execute(rows, (grader,)):
            by_question.setdefault(question, {})[label] = struct.unpack(f"<{len(scores) // 8}d", scores)
    grades = {}
    for question, found in by_question.items():
        if set(found) in ({""}, set(labels)):
            logp_1K = [found[""]] if "" in found else logp_of(np.array([[found[name][0] for name in labels]]))
            grades[question] = np.asarray(logp_1K).astype(np.float32).astype(float)[0]
    return grades


def scores_of(logp_NK: Array, kind: str) -> Array:
    if kind == "log_prob":
        return logp_NK
    if kind == "probability":
        return np.exp(logp_NK)
    others = [np.logaddexp.reduce(np.delete(logp_NK, k, axis=1), axis=1) for k in range(logp_NK.shape[1])]
    return logp_NK - np.stack(others, axis=1)


class Policy:
    """A saved classifier: log-probabilities [N, K] of questions, in float64 from the logits on."""

    def __init__(self, directory: Path, labels: list[str], max_length: int | None, batch_size: int):
        safe: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
        self.model = AutoModelForSequenceClassification.from_pretrained(directory, **safe).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        self.max_length, self.batch_size = max_length, batch_size
        names = [self.model.config.id2label[k] for k in range(self.model.config.num_labels)]
        if names != labels:
            raise SystemExit(f"{directory}: has the labels {names}, the comparison {labels}")

    @torch.no_grad()
    def logp_NK(self, texts: list[str]) -> Array:
        parts = []
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            tokens = self.tokenizer(
                batch, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
            )
            logits_BK = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
            parts.append(logits_BK.double().numpy())
        return logp_of(np.concatenate(parts))


class Ground:
    """The data that policies are measured on: texts, scores, the reference, the gold labels."""

    def __init__(
        self, terms: dict[str, Any], grades: dict[str, Array], reference: Path, dataset: Path | None, batch_size: int
    ):
        self.terms, self.labels, self.batch_size = terms, terms["labels"], batch_size
        self.texts, self.ref_NK, self.score_NK, self.gold_N = {}, {}, {}, {}
        policy = self.policy(reference)
        data = dataset or Path(terms["dataset_name"])
        data = data if data.exists() else EMBEDDED / data
        for split, file in FILES.items():
            rows = rows_of(data / f"{file}.jsonl")
            rows = [row for row in rows if row[terms["text_column"]].strip() in grades]
            self.texts[split] = [row[terms["text_column"]].strip() for row in rows]
            self.ref_NK[split] = policy.logp_NK(self.texts[split])
            self.score_NK[split] = scores_of(
                np.array([grades[text] for text in self.texts[split]]), terms["score_type"] or "log_prob"
            )
            if split == "heldout":
                self.gold_N[split] = np.array([self.labels.index(row[terms["label_column"]].strip()) for row in rows])

    def policy(self, directory: Path) -> Policy:
        return Policy(directory, self.labels, self.terms["max_length"], self.batch_size)

    def metrics(self, logp_NK: Array, split: str, beta: float) -> dict[str, Any]:
        reference, gold_N = self.ref_NK[split], self.gold_N.get(split)
        return metrics(logp_NK, reference, self.score_NK[split], beta, self.labels, gold_N)


def optimum(ref_NK: Array, score_NK: Array, beta: float) -> Array:
    """Log-probabilities of the best policy at one beta."""
    return logp_of(ref_NK + score_NK / beta)


def mean_kl(logp_NK: Array, ref_NK: Array) -> float:
    return float((np.exp(logp_NK) * (logp_NK - ref_NK)).sum(1).mean())


def mean_score(logp_NK: Array, score_NK: Array) -> float:
    return float((np.exp(logp_NK) * score_NK).sum(1).mean())


def best_score(ref_NK: Array, score_NK: Array, kl: float) -> float:
    """The highest mean score of any policy with this mean KL, by bisection for the beta whose optimum has that KL."""
    unit = float(score_NK.max() - score_NK.min()) or 1.0
    low, high = math.log(1e-4 * unit), math.log(1e8 * unit)
    if kl <= 0:
        return mean_score(ref_NK, score_NK)
    if mean_kl(optimum(ref_NK, score_NK, math.exp(low)), ref_NK) <= kl:
        return float(score_NK.max(1).mean())
    for _ in range(200):
        middle = (low + high) / 2
        if mean_kl(optimum(ref_NK, score_NK, math.exp(middle)), ref_NK) > kl:
            low = middle
        else:
            high = middle
    return mean_score(optimum(ref_NK, score_NK, math.exp(low)), score_NK)


def win_and_tie(logp_NK: Array, ref_NK: Array, score_NK: Array) -> tuple[float, float]:
    """Win rate of the policy's answers against the reference's, over all pairs of labels; a tie is half a win."""
    pair_NKK = np.exp(logp_NK)[:, :, None] * np.exp(ref_NK)[:, None, :]
    tie = (pair_NKK * (score_NK[:, :, None] == score_NK[:, None, :])).sum((1, 2)).mean()
    win = (pair_NKK * (score_NK[:, :, None] > score_NK[:, None, :])).sum((1, 2)).mean()
    return float(win + tie / 2), float(tie)


def share(choice_N: NDArray[np.int64], labels: list[str]) -> dict[str, float]:
    return {label: float((choice_N == k).mean()) for k, label in enumerate(labels)}


def metrics(
    logp_NK: Array, ref_NK: Array, score_NK: Array, beta: float, labels: list[str], gold_N: NDArray[np.int64] | None
) -> dict[str, Any]:
    kl, score = mean_kl(logp_NK, ref_NK), mean_score(logp_NK, score_NK)
    objective, reference = score - beta * kl, mean_score(ref_NK, score_NK)
    if beta == 0:
        highest, sure = float(score_NK.max(1).mean()), 1.0
    else:
        best_NK = optimum(ref_NK, score_NK, beta)
        highest = mean_score(best_NK, score_NK) - beta * mean_kl(best_NK, ref_NK)
        sure = float(np.exp(best_NK).max(1).mean())
    win, tie = win_and_tie(logp_NK, ref_NK, score_NK)
    greedy_N = logp_NK.argmax(1)
    found: dict[str, Any] = {
        "questions": len(logp_NK),
        "expected_score": score,
        "kl": kl,
        "entropy": -mean_score(logp_NK, logp_NK),
        "objective": objective,
        "optimum_objective": highest,
        "optimum_confidence": sure,
        "optimum_fraction": (objective - reference) / (highest - reference) if highest - reference > 1e-12 else None,
        "frontier_distance": best_score(ref_NK, score_NK, kl) - score,
        "win_rate": win,
        "tie_rate": tie,
        "judge_agreement": float((greedy_N == score_NK.argmax(1)).mean()),
        "label_histogram": dict(zip(labels, np.exp(logp_NK).mean(0).tolist(), strict=True)),
        "greedy_histogram": share(greedy_N, labels),
        "grader_histogram": share(score_NK.argmax(1), labels),
    }
    if gold_N is not None:
        found |= gold_metrics(logp_NK, gold_N)
    return found


def gold_metrics(logp_NK: Array, gold_N: NDArray[np.int64]) -> dict[str, float]:
    p_NK, labels = np.exp(logp_NK), np.arange(logp_NK.shape[1])
    sure_N, right_N = p_NK.max(1), (p_NK.argmax(1) == gold_N).astype(float)
    place_N = np.array([(sure_N < sure).sum() for sure in sure_N])
    bins = [np.flatnonzero(15 * place_N // len(place_N) == index) for index in range(15)]
    answered = wrong = area = 0.0
    for sure in sorted(set(sure_N.tolist()), reverse=True):
        size, errors = int((sure_N == sure).sum()), float((1 - right_N[sure_N == sure]).sum())
        for _ in range(size):  # those that are equally sure have the mean error of all of them
            answered, wrong = answered + 1, wrong + errors / size
            area += wrong / answered
    return {
        "gold_accuracy": float(right_N.mean()),
        "gold_probability": float(p_NK[range(len(gold_N)), gold_N].mean()),
        "brier": float(((p_NK - (labels == gold_N[:, None])) ** 2).sum(1).mean()),
        "nll": float(-logp_NK[range(len(gold_N)), gold_N].mean()),
        "ece": sum(len(b) / len(sure_N) * abs(right_N[b].mean() - sure_N[b].mean()) for b in bins if len(b)),
        "aurc": area / len(sure_N),
    }


def difference(said: Any, found: Any) -> float:
    """Largest absolute difference; infinite where just one of the two is missing."""
    if isinstance(found, dict):
        return max((difference(said.get(key), value) for key, value in found.items()), default=0.0)
    missing = [value is None or math.isnan(value) for value in (said, found)]
    return (0.0 if all(missing) else math.inf) if any(missing) else abs(float(said) - float(found))


def terms_of(directory: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8")))


class Differences(dict[str, float]):
    """Metric -> largest difference so far from the values in `file`; calls `tell` for every one that is too large."""

    def __init__(self, file: str, tell: Callable[[str], None]):
        self.file, self.tell = file, tell

    def note(self, where: str, said: Mapping[Any, Any], found: dict[str, Any]) -> None:
        for name, value in found.items():
            self[name] = max(self.get(name, 0.0), apart := difference(said[name], value))
            if apart > LARGEST:
                self.tell(f"{where}: {name} is {value}, {self.file} says {said[name]}")


def recompute(root: Path, dataset: Path | None, batch_size: int, tell: Callable[[str], None]) -> dict[str, float]:
    """Metric -> largest difference between `results.parquet` and the files behind it."""
    terms, largest = terms_of(root), Differences("results.parquet", tell)
    grounds = {}
    for number in range(terms.get("references", 1)):
        suffix = f"-{number}" if number else ""
        grades = grades_of(root / f"grades{suffix}.parquet", terms["labels"])
        grounds[number] = Ground(terms, grades, root / f"reference{suffix}", dataset, batch_size)
    for run_dir, group in pd.read_parquet(root / "results.parquet").groupby("run_dir"):
        ground = grounds[int(group["reference"].iloc[0])]
        policy = ground.policy(root / str(run_dir))
        for row in group.to_dict("records"):
            split = row["split"]
            found = ground.metrics(policy.logp_NK(ground.texts[split]), split, row["beta"])
            largest.note(f"{run_dir}, {split}", row, found)
    return largest


def recompute_run(run: Path, dataset: Path | None, batch_size: int, tell: Callable[[str], None]) -> dict[str, float]:
    """Metric -> largest difference between `results.json` and the files behind it, for policy and reference."""
    terms, largest = terms_of(run), Differences("results.json", tell)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    if terms["grade_table"] is not None:
        grades = grades_of(Path(terms["grade_table"]), terms["labels"])
    else:
        grades = grades_in(Path(terms["grade_store"]), results["grader"], terms["labels"])
    ground = Ground(terms, grades, Path(terms["sft_model_path"]), dataset, batch_size)
    policy = ground.policy(run)
    for split, texts in ground.texts.items():
        found = ground.metrics(policy.logp_NK(texts), split, results["beta"])
        largest.note(f"splits, {split}", results["splits"][split], found)
        found = ground.metrics(ground.ref_NK[split], split, results["beta"])
        largest.note(f"reference, {split}", results["reference"][split], found)
    return largest


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of a comparison, or of a run")
    parser.add_argument("--dataset_name", type=Path, help="the data's directory, if it has moved")
    parser.add_argument("--batch_size", type=int, default=50)
    options = parser.parse_args(argv)
    disable_progress_bar()
    read = recompute if (options.directory / "results.parquet").exists() else recompute_run
    largest = read(options.directory, options.dataset_name, options.batch_size, print)
    for name, apart in largest.items():
        print(f"{name:<18} {apart:.2g}")
    print(f"largest difference {max(largest.values()):.2g}, allowed {LARGEST:g}")
    return 1 if max(largest.values()) > LARGEST else 0


if __name__ == "__main__":
    sys.exit(main())
