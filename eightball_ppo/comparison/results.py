"""Reads the finished runs of a comparison back: their records, and the predictions of their saved policies."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eightball_ppo.comparison.grid import RUNS, RunSpec, run_config
from eightball_ppo.comparison.workers import FailedRuns
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.registry import METHODS, REFERENCE
from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import display_text
from eightball_ppo.errors import InputError
from eightball_ppo.evaluation import GradedSplit, evaluate
from eightball_ppo.functional import calibration, objective
from eightball_ppo.methods import distill
from eightball_ppo.methods.inputs import load_splits
from eightball_ppo.methods.task import Task, load_task
from eightball_ppo.models.frozen import freeze_encoder, with_features
from eightball_ppo.models.loading import label_set, load_classifier, predict_logits_NK
from eightball_ppo.report.style import row_name
from eightball_ppo.runtime.run import METRICS, read_metrics, read_results

LOGP_TOLERANCE = 1e-5  # between a saved policy and its record; rounding on another machine is less
SPLITS = ("train", "heldout")
FRONTIER_POINTS = 80


@dataclass(frozen=True)
class RunResult:
    """A finished run, read back.

    Args:
        spec: its place in the grid.
        directory: of the run.
        results: results.json.
        logp_NK: split -> log-probabilities of the saved policy, shape [N, K], float64.
        curve: the rows of metrics.jsonl that have exact metrics.
    """

    spec: RunSpec
    directory: Path
    results: dict[str, Any]
    logp_NK: dict[str, Tensor]
    curve: list[dict[str, Any]]


Tasks = Mapping[int, Task]
"""The questions, clean scores and reference that the runs of each reference share."""


def load_shared_tasks(config: CompareConfig) -> Tasks:
    """Loads what runs share, for each reference."""
    tasks = {}
    for number in range(config.references):
        spec = RunSpec(REFERENCE, config.seeds[0], config.kl_coefs[0], reference=number)
        reference_config = run_config(spec, config)
        tasks[number] = load_task(reference_config, load_splits(reference_config))
    return tasks


def collect_results(specs: list[RunSpec], config: CompareConfig, tasks: Tasks, failed: FailedRuns) -> list[RunResult]:
    """Reads every run that is not in `failed`; adds those that are damaged or do not match their record to it."""
    results = []
    for spec in specs:
        if spec not in failed:
            try:
                results.append(_read(spec, config, tasks[spec.reference]))
            except InputError as error:
                failed[spec] = f"{error}; remove it to run it again"
    return results


def _read(spec: RunSpec, config: CompareConfig, task: Task) -> RunResult:
    directory = Path(config.output_dir) / RUNS / spec.name
    results = read_results(directory)
    policy, _ = load_classifier(str(directory), "run", trust_remote_code=config.trust_remote_code)
    task.labels.require_same(label_set(policy), "--labels", f"run {directory}")
    columns = task.labels.columns_in(label_set(policy))
    tokens = task.tokens
    if getattr(policy.config, "frozen", False):
        tokens = {split: with_features(freeze_encoder(policy), tokens[split]) for split in SPLITS}
    logits_NK = {split: predict_logits_NK(policy, tokens[split])[:, columns] for split in SPLITS}
    logp_NK = {split: logits_NK[split].double().log_softmax(-1) for split in SPLITS}
    for split in SPLITS:
        record = evaluate(logp_NK[split], task.graded(split), spec.beta, task.labels)
        for name in ("expected_score", "kl", "objective"):
            recorded = results.get("splits", {}).get(split, {}).get(name)
            if recorded is None or abs(record[name] - recorded) > LOGP_TOLERANCE * max(1.0, abs(recorded)):
                raise InputError(
                    f"{directory}: its saved policy has {name} {record[name]:.6g} on the {split} questions, its "
                    f"results.json has {recorded}"
                )
    try:
        rows = [row for row in read_metrics(directory) if row["stage"] == results["method"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{directory / METRICS}: missing or damaged") from None
    curve = [row for row in rows if row.get("exact/expected_score") is not None]
    return RunResult(spec, directory, results, logp_NK, curve)


def results_frame(results: list[RunResult], root: Path) -> pd.DataFrame:
    """`results.parquet`: a row for every run and split; `run_dir` is relative to `root`."""
    rows = []
    for run in results:
        scalars = {name: value for name, value in run.results.items() if not isinstance(value, dict | list)}
        key = {**asdict(run.spec), "run_dir": str(run.directory.relative_to(root))}
        rows += [{**scalars, **run.results["splits"][split], **key, "split": split} for split in SPLITS]
    frame = pd.DataFrame(rows).astype({"budget": "Int64", "threshold": "float64"})
    first = ["method", "seed", "reference", "beta", "split", "noise", "budget", "threshold", "run_dir"]
    return frame[first + [name for name in frame if name not in first]]


def per_question(run: RunResult, split: str, graded: GradedSplit) -> dict[str, np.ndarray]:
    """The metrics of a run as means over questions.

    Returns:
        metric -> values of the questions, float64, shape [N], whose mean is the metric. Of `optimum_fraction`, a ratio
        of means, they are those of the delta method, `f + (gain - f * possible gain) / mean possible gain`.
    """
    logp_NK, ref_logp_NK, score_NK = run.logp_NK[split], graded.ref_logp_NK, graded.score_NK
    values = {
        "objective": objective.objective_N(logp_NK, ref_logp_NK, score_NK, run.spec.beta),
        "expected_score": objective.expected_score_N(logp_NK, score_NK),
        "kl": objective.kl_exact_N(logp_NK, ref_logp_NK),
        "frontier_distance": objective.frontier_distance_N(logp_NK, ref_logp_NK, score_NK),
        "judge_agreement": (logp_NK.argmax(-1) == score_NK.argmax(-1)).double(),
    }
    reference_N = objective.expected_score_N(ref_logp_NK, score_NK)
    possible_N = objective.optimum_objective_N(ref_logp_NK, score_NK, run.spec.beta) - reference_N
    if possible_N.mean() > 1e-12:  # else the reference is the optimum already
        gain_N = values["objective"] - reference_N
        fraction = gain_N.mean() / possible_N.mean()
        values["optimum_fraction"] = fraction + (gain_N - fraction * possible_N) / possible_N.mean()
    arrays = {name: value.numpy() for name, value in values.items()}
    return arrays | (_gold_values(logp_NK, graded.questions) if graded.questions.gold else {})


def _gold_values(logp_NK: Tensor, questions: Questions) -> dict[str, np.ndarray]:
    """The values of `per_question` that need gold labels; nothing without them."""
    if questions.label_ids is None:
        return {}
    label_N = torch.as_tensor(questions.label_ids, dtype=torch.long)
    nll_N = calibration.nll_N(logp_NK, label_N)
    sure_and_right = calibration.confidence_and_correct(logp_NK, label_N)
    return {
        "gold_accuracy": sure_and_right[1],
        "gold_probability": (-nll_N).exp().numpy(),
        "brier": calibration.brier_N(logp_NK, label_N).numpy(),
        "nll": nll_N.numpy(),
        "ece": calibration.ece_N(*sure_and_right),
        "aurc": calibration.aurc_N(*sure_and_right),
    }


def confidence_frame(results: list[RunResult], tasks: Tasks) -> pd.DataFrame:
    """Confidence of each held-out question and whether the answer is the gold label, for each run; may be empty."""
    frames = []
    for run in results:
        questions = tasks[run.spec.reference].questions["heldout"]
        if questions.label_ids is not None and questions.gold:
            label_N = torch.as_tensor(questions.label_ids, dtype=torch.long)
            confidence_N, correct_N = calibration.confidence_and_correct(run.logp_NK["heldout"], label_N)
            row = {"confidence": confidence_N, "correct": correct_N}
            frames.append(pd.DataFrame({**row, **asdict(run.spec)}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def frontier_frame(task: Task) -> pd.DataFrame:
    """The exact frontier of each split: mean KL (nats) and mean expected score of the optimum at many betas."""
    frames = []
    for split in SPLITS:
        graded = task.graded(split)
        score_range = (graded.score_NK.max() - graded.score_NK.min()).item() or 1.0
        betas = (score_range * np.logspace(3, -3, FRONTIER_POINTS)).tolist()
        points = objective.frontier(graded.ref_logp_NK, graded.score_NK, betas)
        frames.append(pd.DataFrame(points, columns=["kl", "expected_score"]).assign(split=split, beta=betas))
    return pd.concat(frames, ignore_index=True)


def curves_frame(results: list[RunResult], tasks: Tasks) -> pd.DataFrame:
    """Exact metrics on the training questions while each run trained, reference first.

    A method that samples no episodes has one row, the end of its training.
    """
    starts = {}
    for number, task in tasks.items():
        graded = task.graded("train")
        starts[number] = objective.expected_score_N(graded.ref_logp_NK, graded.score_NK).mean().item()
    rows = []
    for run in results:
        start = starts[run.spec.reference]
        reference = {"episode": 0, "grader_calls": 0, "optimum_fraction": 0.0, "kl": 0.0, "expected_score": start}
        sampled = [row for row in run.curve if "episode" in row]
        rows += [{**asdict(run.spec), **reference}] if sampled else []
        for row in sampled or run.curve[-1:]:
            exact = {name: row[f"exact/{name}"] for name in ("optimum_fraction", "expected_score", "kl")}
            cost = {"episode": row.get("episode", 0), "grader_calls": row["grader_calls"]}
            rows.append({**asdict(run.spec), **cost, **exact})
    return pd.DataFrame(rows)


def coverage_frame(task: Task) -> pd.DataFrame:
    """Share of the held-out questions at or above a threshold on the grader's confidence; see `distill.confidence_N`.

    `accuracy` is the grader's on them, NaN without gold labels.
    """
    logp_NK, heldout = task.grader_logp_NK["heldout"], task.questions["heldout"]
    confidence_N = distill.confidence_N(logp_NK.double(), task.config.score_type == "raw").numpy()
    thresholds = np.unique(np.concatenate([[0.0], np.quantile(confidence_N, np.linspace(0, 1, 100))]))
    selected_TN = confidence_N >= thresholds[:, None]
    accuracy = np.full(len(thresholds), np.nan)
    if heldout.label_ids is not None and heldout.gold:
        correct_N = logp_NK.argmax(-1).numpy() == np.array(heldout.label_ids)
        accuracy = (selected_TN & correct_N).sum(1) / selected_TN.sum(1)
    return pd.DataFrame({"threshold": thresholds, "coverage": selected_TN.mean(1), "accuracy": accuracy})


def flips_frame(results: list[RunResult], tasks: Tasks) -> pd.DataFrame:
    """The held-out questions whose most probable answer one run changed: the first of `ppo`, else of any method."""
    trained = [run for run in results if run.spec.method != REFERENCE and not METHODS[run.spec.method].asks_grader]
    if not trained:
        return pd.DataFrame()
    run = next((run for run in trained if run.spec.method == "ppo"), trained[0])
    task = tasks[run.spec.reference]
    graded, names = task.graded("heldout"), np.array(task.labels.names, dtype=object)
    before_NK, after_NK = graded.ref_logp_NK.exp().numpy(), run.logp_NK["heldout"].exp().numpy()
    before_N, after_N = before_NK.argmax(1), after_NK.argmax(1)
    rows = np.flatnonzero(before_N != after_N)
    label_ids = graded.questions.label_ids if graded.questions.gold else None
    return pd.DataFrame(
        {
            "question": [display_text(graded.questions.texts[row]) for row in rows.tolist()],
            "gold_label": None if label_ids is None else names[np.array(label_ids)[rows]],
            "grader": names[graded.score_NK.argmax(1).numpy()[rows]],
            "method": row_name(run.spec.method, run.spec.threshold),
            "beta": run.spec.beta,
            "before": names[before_N[rows]],
            "after": names[after_N[rows]],
            "p_before": before_NK[rows, after_N[rows]],
            "p_after": after_NK[rows, after_N[rows]],
            "change": 0.5 * np.abs(after_NK - before_NK).sum(1)[rows],
        }
    )
