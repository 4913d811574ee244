"""The records of the runs that the demo shows: changed answers, learning curves, numbers, example questions."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from eightball_ppo.data.pairs import join_pair
from eightball_ppo.demo.loading import Policy
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.run import METRICS, read_metrics

BEFORE_AFTER = "before_after.parquet"
MAX_CHANGES = 500
MAX_EXAMPLE_LENGTH = 60  # characters
PANELS = (
    ("exact/expected_score", "Expected score", "the grader's mean score of the answers; higher is better"),
    ("exact/kl", "KL to the reference, nats", "how far the policy has moved"),
    ("exact/optimum_fraction", "Share of the optimum", "0 is the reference, 1 the best policy at this beta"),
)
NUMBERS = ("optimum_fraction", "expected_score", "kl", "gold_accuracy")


@dataclass(frozen=True)
class AnswerChange:
    """A held-out question whose most probable answer training changed; `gold_label` is None if it has none."""

    question: str
    gold_label: str | None
    before: str
    after: str
    before_probability: float
    after_probability: float
    change: float

    @property
    def correct(self) -> bool:
        """Whether the answer after training is the gold label."""
        return self.gold_label is not None and self.after == self.gold_label


@dataclass(frozen=True)
class Curve:
    """The curve of one run in one panel: `points` are (share of the training done, value)."""

    name: str
    points: list[tuple[float, float]]


def read_changes(policy: Policy, labels: LabelSet) -> tuple[list[AnswerChange], int]:
    """Reads the answers that training changed from `before_after.parquet`.

    Returns:
        The changes, the largest first, and the number of questions; ([], 0) if the run has no such file.

    Raises:
        InputError: The table is damaged or has other labels.
    """
    file = policy.directory / BEFORE_AFTER
    if not file.is_file():
        return [], 0
    try:
        table = pd.read_parquet(file)
        before = table[[f"before_probability_{name}" for name in labels.names]].to_numpy()
        after = table[[f"after_probability_{name}" for name in labels.names]].to_numpy()
        gold = table["gold_label"] if "gold_label" in table else [None] * len(table)
        questions = map(join_pair, table["question"], table["text_pair"]) if "text_pair" in table else table["question"]
        rows = zip(questions, gold, before, after, table["change"], strict=True)
    except (OSError, ValueError, KeyError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"--runs {policy.directory}: {BEFORE_AFTER} is damaged ({type(error).__name__})") from None
    changes = []
    for question, gold_label, before_K, after_K, change in rows:
        old, new = int(before_K.argmax()), int(after_K.argmax())
        if old != new:
            answers = labels.names[old], labels.names[new]
            probabilities = float(before_K[old]), float(after_K[new])
            changes.append(AnswerChange(str(question), gold_label, *answers, *probabilities, float(change)))
    return sorted(changes, key=lambda row: (-row.change, row.question)), len(table)


def examples(changes: list[AnswerChange], labels: LabelSet) -> list[str]:
    """Example questions: one for each of up to 4 labels that training got right, and one that it got wrong."""
    short = [row for row in changes if len(row.question) <= MAX_EXAMPLE_LENGTH]
    right = [next((row for row in short if row.correct and row.after == label), None) for label in labels.names[:4]]
    wrong = next((row for row in short if row.gold_label is not None and not row.correct), None)
    found = [row.question for row in (*right, wrong) if row is not None]
    return found or [row.question for row in short[:3]]


def read_curves(policies: list[Policy]) -> dict[str, list[Curve]]:
    """The curves by panel, for the panels whose metric a run logged.

    Raises:
        InputError: A metrics.jsonl is damaged.
    """
    found: dict[str, list[Curve]] = {key: [] for key, _, _ in PANELS}
    for policy in policies:
        rows = _exact_rows(policy)
        axis = "episode" if all("episode" in row for row in rows) else "step"
        last = max((float(row[axis]) for row in rows), default=0.0)
        for key, curves in found.items():
            points = [(row[axis] / last, float(row[key])) for row in rows if last > 0 and _is_finite(row.get(key))]
            if len(points) > 1:
                curves.append(Curve(policy.name, points))
    return {key: curves for key, curves in found.items() if curves}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _exact_rows(policy: Policy) -> list[dict[str, Any]]:
    """The rows of the final training that hold exact metrics."""
    try:
        rows = read_metrics(policy.directory)
        return [row for row in rows if "exact/kl" in row and row.get("stage", policy.method) == policy.method]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--runs {policy.directory}: {METRICS} is damaged ({type(error).__name__})") from None


def training_lengths(policies: list[Policy]) -> dict[str, str]:
    """The length of each training, as text by name."""
    lengths = {}
    for policy in policies:
        episodes = policy.results.get("episodes")
        steps = max((row.get("step", 0) for row in _exact_rows(policy)), default=0)
        lengths[policy.name] = f"{episodes:,} episodes" if episodes else f"{steps:,} optimizer steps"
    return lengths


def heldout_numbers(reference: Policy, policies: list[Policy]) -> list[dict[str, Any]]:
    """A row of held-out metrics for the reference, as the last run measured it, and for every policy."""
    reference_splits = policies[-1].results.get("reference") or {}
    rows: list[tuple[Any, ...]] = [(reference.name, reference_splits, None, 0)]
    for policy in policies:
        results = policy.results
        rows.append((policy.name, results["splits"], policy.config["kl_coef"], results.get("grader_calls")))
    return [
        {"name": name, "beta": beta, "calls": calls} | {key: (splits.get("heldout") or {}).get(key) for key in NUMBERS}
        for name, splits, beta, calls in rows
    ]
