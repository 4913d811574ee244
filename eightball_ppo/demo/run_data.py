"""What the runs of a demo have on file: flips of held-out questions, learning curves, numbers, examples to ask."""

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
LONGEST_EXAMPLE = 60  # characters
PANELS = (
    ("exact/expected_score", "Expected score", "what the grader says of the answers; higher is better"),
    ("exact/kl", "KL to the reference, nats", "how far the policy has moved"),
    ("exact/optimum_fraction", "Share of the optimum", "0 is the reference, 1 leaves nothing to gain"),
)


@dataclass(frozen=True)
class AnswerChange:
    """A held-out question whose most probable answer training changed; `wanted` None where nobody said."""

    question: str
    wanted: str | None
    before: str
    after: str
    before_probability: float
    after_probability: float
    change: float

    @property
    def met(self) -> bool:
        return self.wanted is not None and self.after == self.wanted


@dataclass(frozen=True)
class Curve:
    """One run's curve in one panel: `points` are (share of the training gone by, value)."""

    name: str
    points: list[tuple[float, float]]


def read_changes(policy: Policy, labels: LabelSet) -> tuple[list[AnswerChange], int]:
    """(flips, the largest change first, and how many questions there were); ([], 0) where the run has no such table.

    Raises:
        InputError: the table is damaged, or is of other labels.
    """
    file = policy.directory / BEFORE_AFTER
    if not file.is_file():
        return [], 0
    try:
        table = pd.read_parquet(file)
        before = table[[f"before_probability_{name}" for name in labels.names]].to_numpy()
        after = table[[f"after_probability_{name}" for name in labels.names]].to_numpy()
        wanted = table["wanted"] if "wanted" in table else [None] * len(table)
        questions = map(join_pair, table["question"], table["text_pair"]) if "text_pair" in table else table["question"]
        columns = zip(questions, wanted, before, after, table["change"], strict=True)
    except (OSError, ValueError, KeyError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"--runs {policy.directory}: {BEFORE_AFTER} is damaged ({type(error).__name__})") from None
    flips = []
    for question, gold, before_K, after_K, change in columns:
        old, new = int(before_K.argmax()), int(after_K.argmax())
        if old != new:
            names = labels.names[old], labels.names[new]
            flips.append(
                AnswerChange(str(question), gold, *names, float(before_K[old]), float(after_K[new]), float(change))
            )
    return sorted(flips, key=lambda flip: (-flip.change, flip.question)), len(table)


def examples(flips: list[AnswerChange], labels: LabelSet) -> list[str]:
    """A question or two to begin with: one for each of up to 4 labels that training learned to give, and a miss."""
    short = [flip for flip in flips if len(flip.question) <= LONGEST_EXAMPLE]
    good = [next((f for f in short if f.met and f.after == label), None) for label in labels.names[:4]]
    miss = next((f for f in short if f.wanted is not None and not f.met), None)
    found = [flip.question for flip in (*good, miss) if flip is not None]
    return found or [flip.question for flip in short[:3]]


def read_curves(policies: list[Policy]) -> dict[str, list[Curve]]:
    """The curves of every panel that some run logged exact numbers for.

    Raises:
        InputError: a damaged metrics.jsonl.
    """
    found: dict[str, list[Curve]] = {key: [] for key, _, _ in PANELS}
    for policy in policies:
        rows = _exact_rows(policy)
        axis = "episode" if all("episode" in row for row in rows) else "step"
        last = max((float(row[axis]) for row in rows), default=0.0)
        if last <= 0:
            continue
        for key, curves in found.items():
            points = [(row[axis] / last, float(row[key])) for row in rows if _number(row.get(key))]
            if len(points) > 1:
                curves.append(Curve(policy.name, points))
    return {key: curves for key, curves in found.items() if curves}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _exact_rows(policy: Policy) -> list[dict[str, Any]]:
    """The rows of the final training with exact numbers in them."""
    try:
        rows = read_metrics(policy.directory)
        return [row for row in rows if "exact/kl" in row and row.get("stage", policy.method) == policy.method]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--runs {policy.directory}: {METRICS} is damaged ({type(error).__name__})") from None


def lengths(policies: list[Policy]) -> dict[str, str]:
    """How long each training was, in words."""
    said = {}
    for policy in policies:
        episodes = policy.results.get("episodes") or 0
        rows = _exact_rows(policy)
        steps = rows[-1].get("step", 0) if rows else 0
        said[policy.name] = f"{episodes:,} episodes" if episodes else f"{steps:,} optimizer steps"
    return said


def numbers(reference: Policy, policies: list[Policy]) -> list[dict[str, Any]]:
    """A row of held-out numbers for the reference, as the last run measured it, and for every policy."""
    measured = (policies[-1].results.get("reference") or {}).get("heldout") or {}
    rows = [{"name": reference.name, "beta": None, "calls": 0, **_held_out(measured)}]
    for policy in policies:
        own = policy.results["splits"].get("heldout") or {}
        calls = policy.results.get("grader_calls")
        rows.append({"name": policy.name, "beta": policy.config["kl_coef"], "calls": calls, **_held_out(own)})
    return rows


def _held_out(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in ("optimum_fraction", "expected_score", "kl", "gold_accuracy")}
