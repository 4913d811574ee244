"""The verdict of a stage: what changed and how sure that is, where it is saved, and the next command."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from eightball_ppo.functional.intervals import LEVEL

MAX_QUESTION = 120  # characters of a question in a command
NOT_SAVED = "Not saved: pass output_dir to keep the report"
Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """How many texts are right before and after, and McNemar's exact test of the difference.

    Attributes:
        questions: Number of texts.
        right_before: How many of them were right before training.
        right_after: How many are right after it.
        gained: How many became right.
        lost: How many became wrong.
        p_value: Two-sided, of `gained` and `lost` as draws of a fair coin; 1 if both are 0.
        verdict: "better" or "worse" if `p_value` is below 0.05, else "undecided".
        gold: Whether right means the gold label; else the answer that the judge prefers.
    """

    questions: int
    right_before: int
    right_after: int
    gained: int
    lost: int
    p_value: float
    verdict: str
    gold: bool


def mcnemar(before_N: Rows, after_N: Rows, gold: bool = True) -> Change:
    """Compares the right answers before and after on the same texts (McNemar 1947, exact).

    Args:
        before_N: Whether each of N texts was right before.
        after_N: Whether it is right after.
        gold: Whether right means the gold label.
    """
    gained, lost = int((after_N & ~before_N).sum()), int((before_N & ~after_N).sum())
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    verdict = "undecided" if p_value >= LEVEL else "better" if gained > lost else "worse"
    return Change(len(after_N), int(before_N.sum()), int(after_N.sum()), gained, lost, p_value, verdict, gold)


def change_sentence(change: Change) -> str:
    """What changed, of how many, how sure; a change for the worse in capitals."""
    of = f"{change.right_after} of {change.questions} held-out texts, {change.right_before} before"
    what = f"right on {of}" if change.gold else f"agrees with the judge on {of}"
    sure = f"{change.verdict} (McNemar's exact test, p = {change.p_value:.2g})"
    unknown = "" if change.gold else "; accuracy is unknown without gold labels"
    if change.verdict == "worse":
        return f"WORSE THAN THE START: {what}: {sure}{unknown}"
    return f"{what[0].upper()}{what[1:]}: {sure}{unknown}"


def accuracy_sentence(right: int, questions: int, most_common: int, gold: bool = True) -> str:
    """How many texts a classifier without a start to compare with has right, and what its most common label has."""
    what = "Right on" if gold else "Agrees with the labels of the data on"
    return f"{what} {right} of {questions} held-out texts; the most common label alone, on {most_common}"


def saved_sentence(directory: str | Path) -> str:
    """Where the result is."""
    return f"Saved in {directory}"


def next_sentence(*command: str) -> str:
    """The next command."""
    return f"Next: {shlex.join(('eightball', *command))}"


def predict_command(directory: str | Path, texts: Sequence[str]) -> tuple[str, ...]:
    """The command that asks the policy in `directory` about the first short text."""
    for text in texts:
        if len(text) <= MAX_QUESTION and text.isprintable() and not text.startswith("-"):
            return ("predict", text, "--model_name_or_path", str(directory))
    return ("demo", str(directory))


def print_verdict(sentences: Sequence[str]) -> None:
    """Prints the sentences, a line each."""
    print("\n".join(sentences), flush=True)
