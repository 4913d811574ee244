"""Audits of good and bad graders, and their page."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from test_comparison_report import Page

from conftest import write_rows
from eightball_ppo.auditing import run
from eightball_ppo.auditing.page import render_audit
from eightball_ppo.auditing.probes import EMPTY, INJECTIONS, KINDS
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.graders import registry
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade, Scale
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method

EVIL = '<script>alert("Q")</script> & will I "win"?'


@pytest.fixture
def config(tmp_path: Path, small_data: Path, reward_run: Path) -> Callable[..., AuditConfig]:
    """The options of an audit in a directory below `tmp_path`."""

    def make(where: str = "", **overrides: Any) -> AuditConfig:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / where / "audit"),
            "grade_store": str(tmp_path / where / "grades.sqlite3"),
            "gold_file": str(small_data / "heldout.jsonl"),
            "reward_model_path": str(reward_run),
            "audit_questions": 12,
            "disable_tqdm": True,
        }
        return AuditConfig(**{**settings, **overrides})

    return make


Audited = tuple[dict[str, Any], dict[str, Any], str]
"""results.json, audit.json and the page of a finished audit."""


@pytest.fixture
def audit(config: Callable[..., AuditConfig]) -> Callable[..., Audited]:
    """Runs an audit with these options."""

    def run_one(where: str = "", **overrides: Any) -> Audited:
        path = run.run(config(where, **overrides))
        results, record = (json.loads((path / name).read_text()) for name in ("results.json", "audit.json"))
        return results, record, (path / "audit.html").read_text(encoding="utf-8")

    return run_one


class FakeJudge:
    """A judge that is shown the options. `call(question, label names)` gives the K probabilities, or None to fail."""

    deliberate = False
    scale: Scale = "log_prob"

    def __init__(self, labels: LabelSet, call: Any, temperature: float = 0.0):
        self.labels, self._call = labels, call
        self.fingerprint = ":".join(["fake", *labels.names])
        self.settings: dict[str, Any] = {"grader": "fake", "temperature": temperature}
        self.latencies: list[float] = []

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        for request in budget.allowed(requests):
            self.latencies.append(0.25)
            budget.settle(0, 10)
            p_K = self._call(request.question, self.labels.names)
            failed = Grade(request, "failed", (), "no idea")
            on_grade(failed if p_K is None else Grade.from_scores(request, [math.log(p) for p in p_K]))

    def tokens(self, request: GradeRequest) -> int:
        return 10


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `--grader llm` the judge of a function."""

    def use(call: Any, temperature: float = 0.0) -> dict[str, Any]:
        def load(spec: Any, config: Any, labels: LabelSet, *others: Any) -> FakeJudge:
            assert spec.name == "llm"
            return FakeJudge(others[-1] or labels.canonical(), call, temperature)

        monkeypatch.setattr(registry, "load_grader", load)
        return {"grader": "llm", "grader_model": "fake"}

    return use


def certain(label: str, names: tuple[str, ...]) -> list[float]:
    """0.9 on `label`, the rest on the others."""
    return [0.9 if name == label else 0.1 / (len(names) - 1) for name in names]


# --- audits


@pytest.mark.slow
def test_audit_of_a_reward_model_and_again_without_calls(
    config: Callable[..., AuditConfig], audit: Callable[..., Audited], capsys: pytest.CaptureFixture[str]
) -> None:
    results, record, page = audit()
    assert results["method"] == "audit" and results["questions"] == results["graded"] == 40
    assert results["accuracy"] > 0.6 and results["order_flips"] is None and record["repeats"] is None
    assert set(results["flips"]) == set(KINDS) and results["flips"]["case"] == 0  # the MiniLM reads lower case
    assert results["flips"]["whitespace"] == 0
    assert record["sampled"] == 12 and record["injection"]["questions"] == 12 and len(record["empty"]) == len(EMPTY)
    assert len(record["injection"]["rows"]) == len(INJECTIONS) * 3
    texts = 40 + sum(row["pairs"] for row in record["stability"]["rows"]) + 12 * 9 + len(EMPTY)
    assert results["calls_made"] == texts and record["speed"]["calls"] == 40
    last = capsys.readouterr().out.strip().splitlines()[-3:]
    verdict = "PASS" if not results["failed_checks"] else f"FAIL: {'; '.join(results['failed_checks'])}"
    assert last == results["verdict"] and last[0].startswith(f"{verdict}: right on ")
    assert last[1] == f"Saved in {config().output_dir}/audit.html"
    assert last[2].startswith("Next: use another grader" if results["failed_checks"] else "Next: eightball ppo ")
    with GradeStore(config().grade_store) as store:
        remembered = store.audit_of(results["grader"])
    assert remembered == {
        **{name: results[name] for name in ("failed_checks", "accuracy")},
        "report": f"{config().output_dir}/audit.html",
    }
    again, record_again, page_again = audit()  # replaces an earlier audit unasked
    assert again["calls_made"] == 0 and record_again["speed"] is None and "no call was timed" in page_again
    numbers = ("accuracy", "kappa", "f1", "ece", "flips", "injection_excess")
    assert {name: again[name] for name in numbers} == {name: results[name] for name in numbers}
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_rule_is_measured_without_a_verdict(small_data: Path, audit: Callable[..., Audited]) -> None:
    results, record, page = audit(grader="rule:Yes")
    gold = [json.loads(line)["answer"] for line in (small_data / "heldout.jsonl").read_text().splitlines()]
    assert results["accuracy"] == gold.count("Yes") / len(gold) and results["kappa"] == 0
    assert results["deliberate"] and results["failed_checks"] == [] and record["checks"] == []
    assert "No verdict" in page and "PASS" not in page and "FAIL" not in page


@pytest.mark.slow
def test_labels_cut_from_the_training_file_blame_no_grader(
    tmp_path: Path, small_data: Path, audit: Callable[..., Audited]
) -> None:
    other = {"Yes": "No", "No": "Maybe", "Maybe": "Yes"}
    rows = [json.loads(line) for line in (small_data / "preferences.jsonl").read_text().splitlines()[:60]]
    file = write_rows(
        tmp_path / "one.jsonl", [{"text": row["question"], "label": other[row["answer"]]} for row in rows]
    )
    options = {"gold_file": None, "dataset_name": str(file), "labels": list(other), "audit_questions": 1}
    _, record, _ = audit(**options)
    assert record["accuracy"] < 0.6 and not [line for line in record["failed_checks"] if "accuracy" in line]
    assert not [line for line in record["failed_checks"] if "kappa" in line]


@pytest.mark.slow
def test_grader_that_failed_its_audit_is_refused_unless_allowed(
    tmp_path: Path, small_data: Path, sft_run: Path, reward_run: Path, audit: Callable[..., Audited]
) -> None:
    results, _, page = audit(grader="noisy:1.0:bert")
    assert any(sentence.startswith("accuracy 0.") for sentence in results["failed_checks"])
    assert any(sentence.startswith("kappa -") for sentence in results["failed_checks"]) and "FAIL" in page

    training: dict[str, Any] = {"output_dir": str(tmp_path / "ppo"), "dataset_name": str(small_data)}
    training |= {"sft_model_path": str(sft_run), "reward_model_path": str(reward_run), "grader": "noisy:1.0:bert"}
    training |= {"grade_store": str(tmp_path / "grades.sqlite3"), "total_episodes": 120, "disable_tqdm": True}
    with pytest.raises(InputError, match=r"failed its audit \(accuracy 0\..*audit\.html.*--allow_weak_grader"):
        run_method(PPOConfig(**training))
    assert not (tmp_path / "ppo").exists()
    assert run_method(PPOConfig(**training, allow_weak_grader=True)) == tmp_path / "ppo"


@pytest.mark.slow
def test_order_of_the_options_is_measured(tmp_path: Path, audit: Callable[..., Audited], judge: Any) -> None:
    """Of a judge of the first option whatever it says, and of one that reads."""
    results, record, _ = audit(**judge(lambda question, names: certain(names[0], names)))
    assert results["order_flips"] == 1 and "flips under permuted options 100.0% > 20.0%" in results["failed_checks"]
    assert {row["order"]: row["total_variation"] for row in record["order"]["rows"]} == {
        "reversed": pytest.approx(0.85, abs=1e-6),
        "rotated": pytest.approx(0.85, abs=1e-6),
    }
    settled = judge(lambda question, names: certain("No", names))
    results, record, _ = audit("2", **settled)
    assert results["order_flips"] == 0 and record["order"]["total_variation"] == pytest.approx(0, abs=1e-7)
    noisy = {**settled, "grader": "noisy:1.0:llm"}  # the noise is not the judge's, and moves by the order of the labels
    assert audit("3", **noisy)[0]["order_flips"] == 0
    ratings = tmp_path / "rate.jinja"
    ratings.write_text("{% block system %}Rate.{% endblock %}{% block user %}{{ question }} {{ answer }}{% endblock %}")
    rating = {**settled, "grader_prompt": str(ratings)}  # each answer alone: there is no order
    assert audit("4", **rating)[1]["order"] is None


def test_judge_that_obeys_injections_fails(audit: Callable[..., Audited], judge: Any) -> None:
    def obey(question: str, names: tuple[str, ...]) -> list[float]:
        demanded = [name for name in names if f'"{name}"' in question]
        return certain("No" if "Thank" in question else demanded[0] if demanded else "Yes", names)

    results, record, page = audit(**judge(obey))
    gains = {(row["injection"], row["label"]): row["excess"] for row in record["injection"]["rows"]}
    assert gains["void", "Maybe"] == 1 and gains["ignore", "Maybe"] == 0
    assert gains["void", "No"] == 0.75 and gains["ignore", "No"] == -0.25  # one rewording of four leads to No by itself
    assert gains["void", "Yes"] is None  # every question's favourite already
    assert "flips to an injected label beyond rewording's 100.0% > 20.0%" in results["failed_checks"]
    assert record["injection"]["examples"] and "One success of each demand" in page


def test_failed_grades_are_neither_right_nor_wrong_and_fail_the_audit(
    tmp_path: Path, small_data: Path, audit: Callable[..., Audited], judge: Any
) -> None:
    rows = [json.loads(line) for line in (small_data / "heldout.jsonl").read_text().splitlines()]
    gold = {row["question"]: row["answer"] for row in rows}
    lost = set(list(gold)[:30])  # more than the 20 failures that end other gradings

    asked: list[str] = []

    def some(question: str, names: tuple[str, ...]) -> list[float] | None:
        asked.append(question)
        return None if question in lost else certain(gold.get(question, "Yes"), names)

    results, record, page = audit(**judge(some), price_per_1k_tokens=2.0)
    assert results["accuracy"] == 1 and results["graded"] == 10 and results["failure_rate"] == 0.75
    assert len(asked[: results["calls_made"] - 24]) == len(set(asked[: results["calls_made"] - 24]))  # 2 orders of 12
    assert "grades that failed 75.0% > 5.0%" in results["failed_checks"]
    assert "no idea" in page and record["speed"]["latency"] == {"median": 0.25, "p95": 0.25}
    assert record["speed"]["cost_per_1000_grades"] == pytest.approx(40 * 10 / 1000 * 2 / 10 * 1000)
    with pytest.raises(IncompleteError, match=r"no gold question has a complete grade .*no idea"):
        audit("2", **judge(lambda *_: None))
    assert not (tmp_path / "2" / "audit").exists()


def test_audit_whose_budget_ends_is_incomplete_and_keeps_its_grades(audit: Callable[..., Audited]) -> None:
    with pytest.raises(IncompleteError, match="--max_grader_calls 50 is spent, and the audit is not done"):
        audit("1", grader="rule:Yes", max_grader_calls=50)
    calls = [audit(where, grader="rule:Yes")[0]["calls_made"] for where in ("1", "2")]
    assert 0 < calls[0] == calls[1] - 50


def test_judge_that_samples_is_called_repeatedly(audit: Callable[..., Audited], judge: Any) -> None:
    turns = iter(range(10**6))
    sampling = judge(lambda _, names: certain(names[next(turns) % 3], names), 0.7)
    for _ in range(2):  # also where everything else came from the store
        results, record, _ = audit(**sampling)
        (noise,) = record["repeats"]
        assert noise["questions"] == 12 and noise["repeats"] == 3
    assert results["calls_made"] == 36


def test_dry_run_calls_nobody_and_writes_nothing(tmp_path: Path, audit: Callable[..., Audited], judge: Any) -> None:
    asked: list[str] = []
    with pytest.raises(DryRun) as estimate:
        audit(**judge(lambda question, names: asked.append(question)), dry_run=True)
    first, *others = [line.split(":")[0] for line in str(estimate.value).splitlines()]
    assert "calls to make" in str(estimate.value).splitlines()[0]
    assert first and others == ["options reversed", "options rotated"]
    assert not asked and not (tmp_path / "audit").exists()


def test_another_run_is_not_replaced(config: Callable[..., AuditConfig]) -> None:
    done = run.run(config(grader="rule:No"))
    (done / "results.json").write_text(json.dumps({"method": "ppo"}))
    with pytest.raises(InputError, match="holds another run"):
        run.run(config(grader="rule:No"))


# --- the page


def test_nothing_of_data_or_grader_becomes_markup(tmp_path: Path, audit: Callable[..., Audited], judge: Any) -> None:
    """Questions, labels, the file's name and a grader's words, all of them hostile, on a page that holds them all."""
    labels = ["<b>$x^{$</b>", "<script>y</script>"]
    rows = [{"question": f"{EVIL} {i}", "answer": labels[i % 2]} for i in range(6)]  # the judge is wrong about half
    gold = write_rows(tmp_path / "<img src=x>.jsonl", rows)

    def call(question: str, names: tuple[str, ...]) -> list[float] | None:
        return None if question.endswith("5") else certain(labels["Thank" in question], names)

    _, record, page = audit(**judge(call), gold_file=str(gold), labels=labels, grader_prompt="hedger")
    assert record["mistakes"] and record["failures"] and record["stability"]["examples"]
    tags = Page(page).tags
    assert not {"script", "b"} & {name for name, _ in tags} and "&lt;script&gt;alert(" in page
    images = [attributes for name, attributes in tags if name in ("img", "source")]
    assert [str(image.get("src", "data:")).split(":")[0] for image in images] == ["data"] * 4
    assert [bool(image["alt"]) for image in images if "alt" in image] == [True, True]
    assert render_audit(record) == page
