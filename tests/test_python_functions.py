"""`compare`, `audit` and `load_policy`: with objects, and with nothing left on disk that nobody asked for."""

import sys
import tempfile
import warnings
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from pytest import MonkeyPatch

from conftest import LABELS, read_rows
from eightball_ppo import ExactConfig, ExactTrainer, InputError, audit, compare, load_policy
from eightball_ppo.cli import commands
from eightball_ppo.comparison.workers import _without_main_module
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet

TEXTS = [f"Will there be {number} of them?" for number in range(12)]
GOLD = Dataset.from_dict({"question": ["Is it over?", "Am I late?", "Do I win?"], "answer": ["No", "No", "Yes"]})
SHORT: dict[str, Any] = {"seeds": [0], "kl_coefs": [0.1], "disable_tqdm": True, "num_workers": 1}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


class Unpicklable(RuleGrader):
    """Says No, counts its calls, and cannot go to another process."""

    def __init__(self) -> None:
        super().__init__("No", LabelSet.of(LABELS))
        self.asked: list[str] = []
        self.closure = lambda: None

    def grade(self, requests: Any, on_grade: OnGrade, budget: Budget) -> None:
        for request in budget.allowed(requests):
            self.asked.append(request.question)
            super().grade([request], on_grade, budget)


@pytest.mark.slow
def test_compare_asks_a_judge_that_cannot_be_pickled_once_and_returns_a_row_for_each_run_and_split(
    sft_run: Path, tmp_path: Path, scratch: Path
) -> None:
    judge = Unpicklable()
    frame = compare(["sft", "distill"], sft_run, judge, TEXTS, GOLD, **SHORT)
    assert sorted(judge.asked) == sorted([*TEXTS, *GOLD["question"]])
    assert set(zip(frame["method"], frame["split"], strict=True)) == {
        (method, split) for method in ("sft", "distill") for split in ("train", "heldout")
    }
    assert not list(scratch.glob("eightball-*")) and not (tmp_path / "runs").exists()
    kept = compare(["sft"], load_policy(sft_run)[0], judge, TEXTS, GOLD, output_dir=tmp_path / "kept", **SHORT)
    assert len(kept) == 2 and (tmp_path / "kept" / "report.html").exists()
    _check_report_without_judge(tmp_path / "kept")
    with pytest.raises(InputError, match=r"was compared with judge object:rule:"):
        compare(["sft"], sft_run, RuleGrader("Yes", judge.labels), TEXTS, GOLD, output_dir=tmp_path / "kept", **SHORT)


@pytest.mark.slow
def test_default_kl_coefs_of_raw_scores_are_in_their_spread_and_soft_targets_depend_on_them(sft_run: Path) -> None:
    def judge(texts: list[str], labels: list[str]) -> list[list[float]]:
        return [[1000.0 * (label == "No") for label in labels] for _ in texts]

    options = {**SHORT, "kl_coefs": None, "method_options": ["distill_soft.num_train_epochs=2"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of numpy: a raw score taken for a log-probability
        frame = compare(["distill_soft"], sft_run, judge, TEXTS, GOLD, **options)
    spread = 1000 * 2**0.5 / 3
    assert sorted(set(frame["beta"])) == [float(f"{coef * spread:.3g}") for coef in (0.1, 0.5)]
    assert frame[frame["split"] == "train"]["kl"].nunique() == 2


def _check_report_without_judge(directory: Path) -> None:
    """The command makes the page again, whether an object judged or a function that the options name."""
    commands.run("report", [str(directory)])
    options = yaml.safe_load((directory / "config.yaml").read_text())
    judge = directory.parent / "judge.py"
    judge.write_text("raise SystemExit('imported')\n")
    (directory / "config.yaml").write_text(yaml.safe_dump({**options, "grader": f"python:{judge}:score"}))
    (directory / "report.html").unlink()
    commands.run("report", [str(directory)])
    assert (directory / "report.html").exists()
    (directory / "config.yaml").write_text(yaml.safe_dump(options))


def test_arguments_of_compare_are_named_without_flags(sft_run: Path) -> None:
    with pytest.raises(InputError, match=r"^methods ppa: unknown"):
        compare(["ppa"], sft_run, Unpicklable(), TEXTS, GOLD)
    with pytest.raises(InputError, match=r"^judge nobody: unknown grader"):
        compare(["sft"], sft_run, "nobody", TEXTS, GOLD)


def test_processes_of_a_comparison_do_not_run_the_script_again(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """What multiprocessing tells a process that starts."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", str(tmp_path / "script.py"), raising=False)
    assert "init_main_from_path" in spawn.get_preparation_data("worker")
    with _without_main_module():
        assert "init_main_from_path" not in spawn.get_preparation_data("worker")
    assert sys.modules["__main__"] is main


class Knowing(RuleGrader):
    """Knows the gold labels; `right` says of how many."""

    deliberate = False

    def __init__(self, gold: dict[str, str], right: int):
        super().__init__("Yes", LabelSet.of(LABELS))
        self.settings = {**self.settings, "right": right}
        self.fingerprint = f"knowing-{right}"
        self.gold = dict(list(gold.items())[:right])

    def grade(self, requests: Any, on_grade: OnGrade, budget: Budget) -> None:
        for request in budget.allowed(requests):
            label = self.gold.get(request.question, self.gold.get(self._plain(request), "Yes"))
            scores = [0.0 if name == label else -5.0 for name in LABELS]
            on_grade(Grade.from_scores(request, scores))

    def _plain(self, request: GradeRequest) -> str:
        words = request.question.lower()
        return next((text for text in self.gold if text.lower().rstrip("?.! ") in words), "")


def test_audit_passes_a_right_judge_and_fails_a_wrong_one(tmp_path: Path, scratch: Path) -> None:
    rows = read_rows("heldout")[:20]
    gold = Dataset.from_list([{"question": row["question"], "answer": row["answer"]} for row in rows])
    answers = {row["question"]: row["answer"] for row in rows}
    right = audit(Knowing(answers, 20), gold, audit_questions=2, max_injection_flips=1.0, max_flips=1.0)
    assert (right.passed, right.failed_checks, right.accuracy) == (True, [], 1.0)
    wrong = audit(Knowing(answers, 0), gold, audit_questions=2)
    assert not wrong.passed and "accuracy" in wrong.failed_checks[0] and wrong.record["questions"] == 20
    assert not list(scratch.glob("eightball-*")) and list(tmp_path.iterdir()) == [scratch]


def solution_reward(completions: list[str], solution: list[str], **_: Any) -> list[float]:
    return [float(completion == right) for completion, right in zip(completions, solution, strict=True)]


def test_an_audit_gives_a_reward_function_the_columns_and_blocks_it_on_other_texts(
    sft_run: Path, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows("heldout")[:10]
    wrong = [{**row, "solution": "Yes" if row["answer"] == "No" else "No"} for row in rows]
    store: dict[str, Any] = {"grade_store": str(tmp_path / "grades.sqlite3")}
    Dataset.from_list(wrong).to_json(str(tmp_path / "gold.jsonl"))
    verdict = audit(solution_reward, tmp_path / "gold.jsonl", audit_questions=2, **store)
    assert verdict.accuracy == 0.0 and verdict.record["graded"] == 10
    assert verdict.record["ece"] is None  # raw scores are no confidence
    out = capsys.readouterr().out
    assert "Not saved: pass output_dir" in out and str(scratch) not in out and "eightball ppo" not in out
    learned = Dataset.from_dict({"question": TEXTS, "solution": ["No"] * len(TEXTS)})
    measured = Dataset.from_dict({**GOLD.to_dict(), "solution": GOLD["answer"]})
    trainer = ExactTrainer(sft_run, solution_reward, ExactConfig(disable_tqdm=True, **store), learned, measured)
    with pytest.raises(InputError, match="failed its audit"):
        trainer.train()


def test_audit_needs_gold_labels_and_names_its_arguments() -> None:
    judge = RuleGrader("No", LabelSet.of(LABELS))
    with pytest.raises(InputError, match="gold: a gold label is needed for every text"):
        audit(judge, TEXTS)
    with pytest.raises(InputError, match=r"^judge nobody: unknown grader"):
        audit("nobody", GOLD, labels=LABELS)


def test_load_policy_returns_model_and_tokenizer_or_says_what_is_missing(sft_run: Path) -> None:
    model, tokenizer = load_policy(sft_run)
    assert list(model.config.id2label.values()) == LABELS and tokenizer.pad_token
    with pytest.raises(InputError, match=r"load_policy \./nothing: no such directory"):
        load_policy("./nothing")
