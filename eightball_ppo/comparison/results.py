"""Every finished run of a comparison, read back: its record, and its saved policy question by question."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from eightball_ppo.comparison.grid import RUNS, RunSpec, run_config
from eightball_ppo.comparison.workers import FailedRuns
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.config.registry import METHODS, REFERENCE
from eightball_ppo.data.pairs import display_text
from eightball_ppo.errors import InputError
from eightball_ppo.evaluation import GradedSplit, evaluate
from eightball_ppo.functional import objective
from eightball_ppo.methods.task import Task, load_splits, load_task
from eightball_ppo.models.loading import label_set, load_classifier, predict_logits_NK
from eightball_ppo.report.style import row_name
from eightball_ppo.runtime.run import METRICS, read_metrics, read_results

LOGP_TOLERANCE = 1e-5  # how far a saved policy may be from its own record: rounding, on another machine, is less
SPLITS = ("train", "heldout")
FRONTIER_POINTS = 80
MAX_CHANGES = 30


@dataclass(frozen=True)
class RunResult:
    """A run that was read back: `results` as written, `logp_NK` of its saved policy by split (float64), and `curve`,
    the rows of its training that carry exact metrics."""

    cell: RunSpec
    directory: Path
    results: dict[str, Any]
    logp_NK: dict[str, Tensor]
    curve: list[dict[str, Any]]


def load_shared_task(config: CompareConfig) -> Task:
    """Questions, clean scores and reference of the comparison, as every run of it has them."""
    plain = run_config(RunSpec(REFERENCE, config.seeds[0], config.kl_coefs[0]), config)
    assert isinstance(plain, ReferenceConfig)
    return load_task(plain, load_splits(plain))


def collect_results(cells: list[RunSpec], config: CompareConfig, task: Task, holes: FailedRuns) -> list[RunResult]:
    """Every run that stands; one whose files are damaged, or whose policy is not the one measured, becomes a hole."""
    found = []
    for cell in cells:
        if cell in holes:
            continue
        try:
            found.append(_read(cell, config, task))
        except InputError as error:
            holes[cell] = f"{error}; remove it to have it made anew"
    return found


def _read(cell: RunSpec, config: CompareConfig, task: Task) -> RunResult:
    directory = Path(config.output_dir) / RUNS / cell.name
    results = read_results(directory)
    policy, _ = load_classifier(str(directory), "run", trust_remote_code=config.trust_remote_code)
    task.labels.require_same(label_set(policy), "--labels", f"run {directory}")
    logp_NK = {split: predict_logits_NK(policy, task.tokens[split]).double().log_softmax(-1) for split in SPLITS}
    for split in SPLITS:
        now = evaluate(logp_NK[split], task.graded(split), cell.beta, task.labels)
        for name in ("expected_score", "kl", "objective"):
            then = results.get("splits", {}).get(split, {}).get(name)
            if then is None or abs(now[name] - then) > LOGP_TOLERANCE * max(1.0, abs(then)):
                raise InputError(
                    f"{directory}: its saved policy has {name} {now[name]:.6g} on the {split} questions, its results "
                    f"say {then}"
                )
    return RunResult(cell, directory, results, logp_NK, _curve(directory, results["method"]))


def _curve(directory: Path, method: str) -> list[dict[str, Any]]:
    try:
        rows = [row for row in read_metrics(directory) if row["stage"] == method]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{directory / METRICS}: missing or damaged") from None
    return [row for row in rows if row.get("exact/expected_score") is not None]


def results_frame(found: list[RunResult], root: Path) -> pd.DataFrame:
    """`results.parquet`: a row for every run and split; `run_dir` is relative to `root`."""
    rows = []
    for one in found:
        outer = {name: value for name, value in one.results.items() if not isinstance(value, dict | list)}
        key = {**one.cell.key, "run_dir": str(one.directory.relative_to(root))}
        rows += [{**outer, **one.results["splits"][split], **key, "split": split} for split in SPLITS]
    frame = pd.DataFrame(rows)
    frame["budget"] = frame["budget"].astype("Int64")
    frame["threshold"] = frame["threshold"].astype("float64")
    first = ["method", "seed", "beta", "split", "noise", "budget", "threshold", "run_dir"]
    return frame[first + [name for name in frame if name not in first]]


def per_question(one: RunResult, split: str, graded: GradedSplit) -> dict[str, np.ndarray]:
    """The metrics of a run that are means over questions, question by question: arrays [N]."""
    logp_NK, ref_logp_NK, score_NK = one.logp_NK[split], graded.ref_logp_NK, graded.score_NK
    reference_N = objective.expected_score_N(ref_logp_NK, score_NK)
    objective_N = objective.objective_N(logp_NK, ref_logp_NK, score_NK, one.cell.beta)
    values = {
        "objective": objective_N,
        "gain": objective_N - reference_N,
        "largest_gain": objective.optimum_objective_N(ref_logp_NK, score_NK, one.cell.beta) - reference_N,
        "expected_score": objective.expected_score_N(logp_NK, score_NK),
        "frontier_distance": objective.frontier_distance_N(logp_NK, ref_logp_NK, score_NK),
    }
    arrays = {name: value.numpy() for name, value in values.items()}
    if graded.questions.label_ids is not None:
        arrays["gold_accuracy"] = (logp_NK.argmax(-1).numpy() == np.array(graded.questions.label_ids)).astype(float)
    return arrays


def frontier_frame(task: Task) -> pd.DataFrame:
    """The exact frontier of each split: KL and expected score of the optimum at many prices of KL."""
    rows = []
    for split in SPLITS:
        graded = task.graded(split)
        unit = (graded.score_NK.max() - graded.score_NK.min()).item() or 1.0
        betas = (unit * np.logspace(3, -3, FRONTIER_POINTS)).tolist()
        points = objective.frontier(graded.ref_logp_NK, graded.score_NK, betas)
        rows += [
            {"split": split, "beta": beta, "kl": kl, "expected_score": score}
            for beta, (kl, score) in zip(betas, points, strict=True)
        ]
    return pd.DataFrame(rows)


def curves_frame(found: list[RunResult], task: Task) -> pd.DataFrame:
    """Training questions while each run learned, from the reference on; one point where nothing is sampled."""
    graded = task.graded("train")
    start = objective.expected_score_N(graded.ref_logp_NK, graded.score_NK).mean().item()
    rows = []
    for one in found:
        sampled = [row for row in one.curve if "episode" in row]
        if sampled:
            rows.append({**one.cell.key, "episode": 0, "grader_calls": 0, "optimum_fraction": 0.0, "kl": 0.0})
            rows[-1]["expected_score"] = start
        for row in sampled or one.curve[-1:]:
            exact = {name: row[f"exact/{name}"] for name in ("optimum_fraction", "expected_score", "kl")}
            spent = {"episode": row.get("episode", 0), "grader_calls": row["grader_calls"]}
            rows.append({**one.cell.key, **spent, **exact})
    frame = pd.DataFrame(rows)
    frame["budget"] = frame["budget"].astype("Int64")
    return frame


def coverage_frame(task: Task) -> pd.DataFrame:
    """What a threshold on the grader's confidence keeps of the held-out questions, and how much of that is right."""
    logp_NK, gold = task.grader_logp_NK["heldout"], task.questions["heldout"].label_ids
    assert gold is not None
    confidence_N = logp_NK.double().exp().max(-1).values.numpy()
    right_N = logp_NK.argmax(-1).numpy() == np.array(gold)
    thresholds = np.unique(np.concatenate([[0.0], np.quantile(confidence_N, np.linspace(0, 1, 100))]))
    rows = []
    for threshold in thresholds.tolist():
        kept_N = confidence_N >= threshold
        rows.append({"threshold": threshold, "coverage": kept_N.mean(), "accuracy": right_N[kept_N].mean()})
    return pd.DataFrame(rows)


def flips_frame(found: list[RunResult], task: Task) -> pd.DataFrame:
    """The held-out questions whose most probable answer one run changed, those first whose distribution moved most."""
    trained = [one for one in found if one.cell.method != REFERENCE and not METHODS[one.cell.method].asks_grader]
    rows: list[dict[str, Any]] = []
    for one in [own for own in trained if own.cell.method == "ppo"][:1] or trained[:1]:
        graded, names = task.graded("heldout"), task.labels.names
        before_NK, after_NK = graded.ref_logp_NK.exp(), one.logp_NK["heldout"].exp()
        change_N = 0.5 * (after_NK - before_NK).abs().sum(-1)
        for row in change_N.argsort(descending=True, stable=True).tolist():
            old, new = int(before_NK[row].argmax()), int(after_NK[row].argmax())
            if old != new and len(rows) < MAX_CHANGES:
                rows.append(
                    {
                        "question": display_text(graded.questions.texts[row]),
                        "wanted": names[graded.questions.label_ids[row]] if graded.questions.label_ids else None,
                        "grader": names[_best(graded.score_NK[row])],
                        "method": row_name(one.cell.method, one.cell.threshold),
                        "beta": one.cell.beta,
                        "before": names[old],
                        "after": names[new],
                        "p_before": before_NK[row, new].item(),
                        "p_after": after_NK[row, new].item(),
                        "change": change_N[row].item(),
                    }
                )
    return pd.DataFrame(rows)


def _best(score_K: Tensor) -> int:
    return int(score_K.argmax())
