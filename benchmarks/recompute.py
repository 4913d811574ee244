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
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import eightball_ppo  # noqa: F401  for the Auto classes

sys.path.insert(0, str(Path(__file__).parent))  # a test imports this file from the root
from formulas import Array, logp_of, mean_kl, metrics, score_at_kl

LARGEST = 1e-6
EMBEDDED = Path(__file__).parents[1] / "datasets"  # data sets that are named, not a path
FILES = {"train": "rl", "heldout": "heldout"}
HISTOGRAMS = ("label_histogram", "greedy_histogram", "grader_histogram")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


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
    grounds, policies = {}, {}
    for number in range(terms.get("references", 1)):
        suffix = f"-{number}" if number else ""
        grades = grades_of(root / f"grades{suffix}.parquet", terms["labels"])
        grounds[number] = Ground(terms, grades, root / f"reference{suffix}", dataset, batch_size)
    frame = pd.read_parquet(root / "results.parquet")
    for run_dir, group in frame.groupby("run_dir"):
        ground = grounds[int(group["reference"].iloc[0])]
        policy = ground.policy(root / str(run_dir))
        for row in group.to_dict("records"):
            policies[run_dir, row["split"]] = logp_NK = policy.logp_NK(ground.texts[row["split"]])
            found = ground.metrics(logp_NK, row["split"], row["beta"])
            largest.note(f"{run_dir}, {row['split']}", row, found)
    largest.file = "summary.json"
    for pair in json.loads((root / "summary.json").read_text(encoding="utf-8"))["pairs"]:
        if pair["metric"] == "score_at_equal_kl" and {pair["a"], pair["b"]} <= set(frame["method"]):
            found = {"score_at_equal_kl": difference_at_equal_kl(pair, frame, grounds, policies)}
            where = f"{pair['a']} and {pair['b']}, beta {pair['beta']}, {pair['split']}"
            largest.note(where, {"score_at_equal_kl": pair["estimate"]}, found)
    return largest


def difference_at_equal_kl(
    pair: dict[str, Any], frame: pd.DataFrame, grounds: dict[int, Ground], policies: dict[Any, Array]
) -> float:
    """a minus b at the largest KL that all policies of both reach, means over seeds, then over references."""
    same = frame[(frame["split"] == pair["split"]) & (frame["beta"] == pair["beta"])]
    same = same[(same["noise"] == pair["noise"]) & (same["budget"].fillna(-1) == (pair["budget"] or -1))]
    named = same["method"] + same["threshold"].map(lambda value: "" if pd.isna(value) else f"@{value:g}")
    rows = {name: same[named == name].to_dict("records") for name in (pair["a"], pair["b"])}

    def of(row: dict[str, Any], kl: float | None = None) -> float:
        ground, logp_NK = grounds[row["reference"]], policies[row["run_dir"], pair["split"]]
        ref_NK, score_NK = ground.ref_NK[pair["split"]], ground.score_NK[pair["split"]]
        return mean_kl(logp_NK, ref_NK) if kl is None else score_at_kl(logp_NK, ref_NK, score_NK, kl)

    common = min(of(row) for found in rows.values() for row in found)
    means = {}
    for name, found in rows.items():
        scores = pd.DataFrame({"reference": [r["reference"] for r in found], "score": [of(r, common) for r in found]})
        means[name] = scores.groupby("reference")["score"].mean().mean()
    return float(means[pair["a"]] - means[pair["b"]])


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
