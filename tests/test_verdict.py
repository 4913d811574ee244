"""What a stage says at its end: better, worse or undecided; where it is; what to do next."""

import itertools
import json
import shlex
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest import CaptureFixture

from conftest import LABELS
from eightball_ppo.cli import commands
from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.data import Questions
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.report import verdict
from eightball_ppo.runtime.run import read_results


def changed(gained: int, lost: int, kept: int = 30, total: int = 50) -> verdict.Change:
    before_N = np.arange(total) < kept + lost
    after_N = (np.arange(total) < kept) | ((np.arange(total) >= total - gained) & ~before_N)
    return verdict.mcnemar(before_N, after_N)


@pytest.mark.parametrize(("gained", "lost"), itertools.product((0, 1, 5, 9, 12), (0, 1, 4, 7)))
def test_mcnemar_is_the_two_sided_binomial_test_of_the_texts_that_changed(gained: int, lost: int) -> None:
    change = changed(gained, lost)
    n = gained + lost
    tail = sum(comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    assert change.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (change.right_before, change.right_after) == (30 + lost, 30 + gained)
    expected = "undecided" if change.p_value >= 0.05 else "better" if gained > lost else "worse"
    assert change.verdict == expected


def test_the_sentence_says_of_how_many_and_how_sure_and_worse_comes_first() -> None:
    assert verdict.change_sentence(changed(5, 2)).startswith("Right on 35 of 50 held-out texts, 32 before: undecided (")
    assert "before: better (McNemar's exact test, p = 0.00098)" in verdict.change_sentence(changed(11, 0))
    worse = verdict.change_sentence(changed(0, 10))
    assert worse.startswith("WORSE THAN THE START: right on 30 of 50 held-out texts, 40 before: worse (")


def test_without_gold_labels_it_speaks_of_the_judge_and_not_of_accuracy() -> None:
    change = verdict.mcnemar(np.array([True, False]), np.array([True, True]), gold=False)
    sentence = verdict.change_sentence(change)
    assert sentence.startswith("Agrees with the judge on 2 of 2 held-out texts, 1 before: undecided")
    assert sentence.endswith("accuracy is unknown without gold labels") and "ight on" not in sentence


def test_the_next_command_quotes_the_text_and_skips_those_that_no_command_line_takes() -> None:
    texts = ["--flag?", "a\x1fpair", "x" * 500, "Where's my order?"]
    sentence = verdict.next_sentence(*verdict.predict_command("runs/a b", texts))
    command = shlex.split(sentence.removeprefix("Next: "))
    assert command == ["eightball", "predict", "Where's my order?", "--model_name_or_path", "runs/a b"]
    assert verdict.predict_command("runs/x", texts[:3]) == ("demo", "runs/x")


def last_lines(out: str) -> list[str]:
    return out.strip().splitlines()[-3:]


def test_a_method_ends_with_three_sentences_that_results_json_holds(
    ruled: dict[str, Any], tmp_path: Path, capsys: CaptureFixture[str], no_figures: None
) -> None:
    """The rule Yes makes every answer Yes: right where the gold label is Yes."""
    run = run_method(ExactConfig(**ruled, num_train_epochs=200, kl_coef=0.01, output_dir=str(tmp_path / "run")))
    results = read_results(run)
    said = last_lines(capsys.readouterr().out)
    assert said == results["verdict"] and said[0].removeprefix("WORSE THAN THE START: ").lower().startswith("right on ")
    change = results["change"]
    assert change["right_after"] == round(results["splits"]["heldout"]["gold_accuracy"] * 40)
    assert change["right_before"] == round(results["reference"]["heldout"]["gold_accuracy"] * 40)
    assert said[1] == f"Saved in {run}" and shlex.split(said[2])[1:3] == ["eightball", "predict"]
    commands.run("predict", shlex.split(said[2])[3:])  # the command works
    assert any(label in capsys.readouterr().out for label in LABELS)


@pytest.mark.slow
def test_a_run_that_is_worse_names_the_audit_as_the_next_command(
    ruled: dict[str, Any], sft_run: Path, tmp_path: Path, no_figures: None
) -> None:
    model = load_classifier(str(sft_run), "--sft_model_path")
    texts = [f"Will there be {number} of them?" for number in range(40)]
    labels = LabelSet.of(LABELS)
    answers = [int(model[0](**model[1](text, return_tensors="pt")).logits.argmax()) for text in texts]
    wrong = LABELS[(answers[0] + 1) % 3]
    options = {**ruled, "grader": f"rule:{wrong}", "kl_coef": 0.01, "output_dir": str(tmp_path / "run")}
    config = ExactConfig(**options, num_train_epochs=200)
    run = run_method(config, train=Questions("t", texts[:20]), evaluation=Questions("t", texts[20:], answers[20:]))
    results = read_results(run)
    assert results["change"]["verdict"] == "worse" and results["change"]["gold"]
    assert results["verdict"][0].startswith("WORSE THAN THE START: right on ")
    assert f"eightball audit --grader rule:{wrong}" in results["verdict"][2]
    assert RuleGrader(wrong, labels).fingerprint == results["grader"]


def test_sft_and_grade_end_with_three_sentences(
    small_data: Path, sft_run: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    results = read_results(sft_run)
    right = round(results["splits"]["heldout"]["gold_accuracy"] * 40)
    assert results["verdict"][0].startswith(f"Right on {right} of 40 held-out texts; the most common label alone, on ")
    judge = "--grader python:YOUR_FILE.py:YOUR_FUNCTION"
    command = f"eightball ppo --sft_model_path {sft_run} {judge} --dataset_name {small_data}"
    assert results["verdict"][1:] == [f"Saved in {sft_run}", f"Next: {command}"]
    words = ["--dataset_name", str(small_data), "--grader", "rule:Yes", "--disable_tqdm", "--labels", *LABELS]
    commands.run("grade", [*words, "--output_dir", "grades"])
    said = last_lines(capsys.readouterr().out)
    assert said == json.loads(Path("grades/results.json").read_text())["verdict"]
    table = Path("grades/grades.parquet")
    assert said[1] == f"Saved in {table}" and said[2].startswith(f"Next: eightball ppo --grade_table {table} ")
