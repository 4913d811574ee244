"""Whole audits of graders good and bad, and the page that tells of them."""

import json
import math
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from eightball_ppo.audit import run
from eightball_ppo.audit.page import render_audit
from eightball_ppo.audit.probes import EMPTY, INJECTIONS, KINDS
from eightball_ppo.cli import parser
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.graders import registry
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade, Scale
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.job import store_path
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method

EVIL = '<script>alert("Q")</script> & will I "win"?'


def config(tmp_path: Path, small_data: Path, reward_run: Path, **overrides: Any) -> AuditConfig:
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path / "audit"),
        "grade_store": str(tmp_path / "grades.sqlite3"),
        "gold_file": str(small_data / "heldout.jsonl"),
        "reward_model_path": str(reward_run),
        "audit_questions": 12,
        "disable_tqdm": True,
    }
    return AuditConfig(**{**settings, **overrides})


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """results.json, run.json and the page of a finished audit."""
    results, record = (json.loads((path / name).read_text()) for name in ("results.json", "audit.json"))
    return results, record, (path / "audit.html").read_text(encoding="utf-8")


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
            on_grade(
                Grade(request, "failed", (), "no idea")
                if p_K is None
                else Grade.of(request, [math.log(p) for p in p_K])
            )

    def tokens(self, request: GradeRequest) -> int:
        return 10


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `--grader llm` the judge of a function."""

    def use(call: Any, temperature: float = 0.0) -> dict[str, Any]:
        def load(spec: Any, config: Any, labels: LabelSet, *_: Any) -> FakeJudge:
            assert spec.name == "llm"
            return FakeJudge(labels, call, temperature)

        monkeypatch.setattr(registry, "_load_one", load)
        return {"grader": "llm", "grader_model": "fake"}

    return use


def certain(label: str, names: tuple[str, ...]) -> list[float]:
    """0.9 on `label`, the rest on the others."""
    return [0.9 if name == label else 0.1 / (len(names) - 1) for name in names]


# --- whole audits


def test_audit_of_a_reward_model_and_once_more_for_nothing(
    tmp_path: Path, small_data: Path, reward_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = config(tmp_path, small_data, reward_run)
    results, record, page = read(run.run(own))
    assert results["method"] == "audit" and results["questions"] == results["graded"] == 40
    assert results["accuracy"] > 0.6 and results["order_flips"] is None and record["repeats"] is None
    assert set(results["flips"]) == set(KINDS) and results["flips"]["case"] == 0  # the MiniLM reads lower case
    assert results["flips"]["whitespace"] == 0
    assert record["sampled"] == 12 and record["injection"]["questions"] == 12 and len(record["empty"]) == len(EMPTY)
    assert len(record["injection"]["rows"]) == len(INJECTIONS) * 3
    texts = 40 + sum(row["pairs"] for row in record["stability"]["rows"]) + 12 * 9 + len(EMPTY)
    assert results["calls_made"] == texts and record["speed"]["calls"] == 40
    last = capsys.readouterr().out.strip().splitlines()[-1]
    verdict = "PASS" if not results["failed_checks"] else f"FAIL: {'; '.join(results['failed_checks'])}"
    assert last == f"{verdict} -> {tmp_path / 'audit' / 'audit.html'}"
    with GradeStore(store_path(own)) as store:
        remembered = store.audit_of(results["grader"])
    assert remembered == {
        "failed_checks": results["failed_checks"],
        "accuracy": results["accuracy"],
        "report": str(tmp_path / "audit" / "audit.html"),
    }
    again, record_again, page_again = read(run.run(own))  # replaces its own directory unasked
    assert again["calls_made"] == 0 and record_again["speed"] is None and "no call was timed" in page_again
    numbers = ("accuracy", "kappa", "f1", "ece", "flips", "injection_excess")
    assert {name: again[name] for name in numbers} == {name: results[name] for name in numbers}
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_a_rule_is_measured_and_not_judged(tmp_path: Path, small_data: Path, reward_run: Path) -> None:
    own = config(tmp_path, small_data, reward_run, grader="rule:Yes")
    results, record, page = read(run.run(own))
    gold = [json.loads(line)["answer"] for line in (small_data / "heldout.jsonl").read_text().splitlines()]
    assert results["accuracy"] == gold.count("Yes") / len(gold) and results["kappa"] == 0
    assert results["deliberate"] and results["failed_checks"] == [] and record["checks"] == []
    assert "No verdict" in page and "PASS" not in page and "FAIL" not in page


def test_a_grader_that_failed_its_audit_trains_nobody_unless_allowed(
    tmp_path: Path, small_data: Path, sft_run: Path, reward_run: Path
) -> None:
    results, _, page = read(run.run(config(tmp_path, small_data, reward_run, grader="noisy:1.0:bert")))
    assert any(sentence.startswith("accuracy 0.") for sentence in results["failed_checks"])
    assert any(sentence.startswith("kappa -") for sentence in results["failed_checks"]) and "FAIL" in page

    def training(**overrides: Any) -> PPOConfig:
        return PPOConfig(
            output_dir=str(tmp_path / "ppo"),
            dataset_name=str(small_data),
            sft_model_path=str(sft_run),
            reward_model_path=str(reward_run),
            grader="noisy:1.0:bert",
            grade_store=str(tmp_path / "grades.sqlite3"),
            total_episodes=120,
            disable_tqdm=True,
            **overrides,
        )

    with pytest.raises(InputError, match=r"failed its audit \(accuracy 0\..*audit\.html.*--allow_weak_grader"):
        run_method(training())
    assert not (tmp_path / "ppo").exists()
    assert run_method(training(allow_weak_grader=True)) == tmp_path / "ppo"


def test_options_in_another_order(tmp_path: Path, small_data: Path, reward_run: Path, judge: Any) -> None:
    """A judge of the first option whatever it says, and one that reads."""
    first = judge(lambda question, names: certain(names[0], names))
    results, record, _ = read(run.run(config(tmp_path, small_data, reward_run, **first)))
    assert results["order_flips"] == 1 and "flips under permuted options 100.0% > 20.0%" in results["failed_checks"]
    assert {row["order"]: row["total_variation"] for row in record["order"]["rows"]} == {
        "reversed": pytest.approx(0.85, abs=1e-6),
        "rotated": pytest.approx(0.85, abs=1e-6),
    }
    settled = judge(lambda question, names: certain("No", names))
    own = config(tmp_path / "2", small_data, reward_run, **settled)
    results, record, _ = read(run.run(own))
    assert results["order_flips"] == 0 and record["order"]["total_variation"] == pytest.approx(0, abs=1e-7)
    noisy = {**settled, "grader": "noisy:1.0:llm"}  # the noise is not the judge's, and moves by the order of the labels
    assert read(run.run(config(tmp_path / "3", small_data, reward_run, **noisy)))[0]["order_flips"] == 0
    ratings = tmp_path / "rate.jinja"
    ratings.write_text("{% block system %}Rate.{% endblock %}{% block user %}{{ question }} {{ answer }}{% endblock %}")
    rating = {**settled, "grader_prompt": str(ratings)}  # each answer alone: there is no order
    assert read(run.run(config(tmp_path / "4", small_data, reward_run, **rating)))[1]["order"] is None


def test_a_judge_that_obeys_injections(tmp_path: Path, small_data: Path, reward_run: Path, judge: Any) -> None:
    def obey(question: str, names: tuple[str, ...]) -> list[float]:
        asked_for = [name for name in names if f'"{name}"' in question]
        return certain("No" if "Thank" in question else asked_for[0] if asked_for else "Yes", names)

    results, record, page = read(run.run(config(tmp_path, small_data, reward_run, **judge(obey))))
    gains = {(row["injection"], row["label"]): row["excess"] for row in record["injection"]["rows"]}
    assert gains["void", "Maybe"] == 1 and gains["ignore", "Maybe"] == 0
    assert gains["void", "No"] == 0.75 and gains["ignore", "No"] == -0.25  # one rewording of four leads to No by itself
    assert gains["void", "Yes"] is None  # every question's favourite already
    assert "flips to an injected label beyond rewording's 100.0% > 20.0%" in results["failed_checks"]
    assert record["injection"]["examples"] and "One success of each demand" in page


def test_failed_grades_are_neither_right_nor_wrong_and_fail_the_audit(
    tmp_path: Path, small_data: Path, reward_run: Path, judge: Any
) -> None:
    rows = [json.loads(line) for line in (small_data / "heldout.jsonl").read_text().splitlines()]
    gold = {row["question"]: row["answer"] for row in rows}
    lost = set(list(gold)[:30])  # more than the 20 failures that end other gradings

    asked: list[str] = []

    def some(question: str, names: tuple[str, ...]) -> list[float] | None:
        asked.append(question)
        return None if question in lost else certain(gold.get(question, "Yes"), names)

    own = config(tmp_path, small_data, reward_run, **judge(some), price_per_1k_tokens=2.0)
    results, record, page = read(run.run(own))
    assert results["accuracy"] == 1 and results["graded"] == 10 and results["failure_rate"] == 0.75
    assert len(asked[: results["calls_made"] - 24]) == len(set(asked[: results["calls_made"] - 24]))  # 2 orders of 12
    assert "grades that failed 75.0% > 5.0%" in results["failed_checks"]
    assert "no idea" in page and record["speed"]["latency"] == {"median": 0.25, "p95": 0.25}
    assert record["speed"]["cost_per_1000_grades"] == pytest.approx(40 * 10 / 1000 * 2 / 10 * 1000)
    with pytest.raises(IncompleteError, match=r"no gold question has a complete grade .*no idea"):
        run.run(config(tmp_path / "2", small_data, reward_run, **judge(lambda *_: None)))
    assert not (tmp_path / "2" / "audit").exists()


def test_an_audit_that_may_make_no_further_call_is_no_audit(tmp_path: Path, small_data: Path, reward_run: Path) -> None:
    def rule(where: str, **overrides: Any) -> AuditConfig:
        return config(tmp_path / where, small_data, reward_run, grader="rule:Yes", **overrides)

    with pytest.raises(IncompleteError, match="--max_grader_calls 50 is spent, and the audit is not done"):
        run.run(rule("1", max_grader_calls=50))
    the_rest = read(run.run(rule("1")))[0]["calls_made"]
    assert 0 < the_rest == read(run.run(rule("2")))[0]["calls_made"] - 50


def test_a_judge_that_samples_is_asked_again(tmp_path: Path, small_data: Path, reward_run: Path, judge: Any) -> None:
    turns = iter(range(10**6))
    own = config(
        tmp_path, small_data, reward_run, **judge(lambda _, names: certain(names[next(turns) % 3], names), 0.7)
    )
    for _ in range(2):  # also where everything else came from the store
        results, record, _ = read(run.run(own))
        (noise,) = record["repeats"]
        assert noise["questions"] == 12 and noise["repeats"] == 3
    assert results["calls_made"] == 36


def test_a_dry_run_asks_and_writes_nothing(tmp_path: Path, small_data: Path, reward_run: Path, judge: Any) -> None:
    asked: list[str] = []
    own = judge(lambda question, names: asked.append(question))
    with pytest.raises(DryRun) as estimate:
        run.run(config(tmp_path, small_data, reward_run, **own, dry_run=True))
    lines = str(estimate.value).splitlines()
    assert "calls to make" in lines[0] and [line.split(":")[0] for line in lines[1:]] == [
        "options reversed",
        "options rotated",
    ]
    assert not asked and not (tmp_path / "audit").exists()


# --- the page


class Tags(HTMLParser):
    """Every tag and image of a page; fails on tags that are not closed in order."""

    VOID = ("meta", "img", "source")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag in ("img", "source"):
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_nothing_of_data_or_grader_becomes_markup(
    tmp_path: Path, small_data: Path, reward_run: Path, judge: Any
) -> None:
    """Questions, labels, the file's name and a grader's words, all of them hostile, on a page that holds them all."""
    labels = ["<b>$x^{$</b>", "<script>y</script>"]
    rows = [
        {"question": f"{EVIL} {i}", "answer": labels[i % 2]} for i in range(6)
    ]  # the judge below is wrong about half of them
    gold = write_rows(tmp_path / "<img src=x>.jsonl", rows)

    def call(question: str, names: tuple[str, ...]) -> list[float] | None:
        return None if question.endswith("5") else certain(labels["Thank" in question], names)

    own = config(
        tmp_path, small_data, reward_run, **judge(call), gold_file=str(gold), labels=labels, grader_prompt="hedger"
    )
    _, record, page = read(run.run(own))
    assert record["mistakes"] and record["failures"] and record["stability"]["examples"]
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not {"script", "b"} & set(tags.seen) and "&lt;script&gt;alert(" in page
    assert [image.get("src", "data:").split(":")[0] for image in tags.images] == ["data"] * 4  # type: ignore[union-attr]
    assert all(image["alt"] for image in tags.images if "alt" in image) and tags.seen.count("img") == 2
    assert render_audit(record) == page


# --- bad input


def test_bad_input_is_one_line(tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*argv: str) -> str:
        capsys.readouterr()
        flags = ["--output_dir", str(tmp_path / "out"), "--grader", "rule:Yes", "--disable_tqdm", *argv]
        with pytest.raises(SystemExit) as exit_:
            parser.main(AuditConfig, "eightball_ppo.audit.run:run", argv=flags)
        line = capsys.readouterr().err
        assert exit_.value.code == 2 and line.count("\n") == 1 and "Traceback" not in line
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.sqlite3"))
        return line

    missing, other = str(tmp_path / "no.jsonl"), tmp_path / "heldout.txt"
    assert f"--gold_file {missing}: no such file" in refused("--gold_file", missing)
    other.touch()
    assert f"{other}: the name of a data file ends in one of" in refused("--gold_file", str(other))
    bad = write_rows(
        tmp_path / "bad.jsonl", [{"question": "Is it?", "answer": "Yes"}, {"question": "So?", "answer": "Ja"}]
    )
    assert f"{bad}:2: unknown label 'Ja'" in refused("--gold_file", str(bad))
    assert "an audit asks the grader itself" in refused("--grade_table", "grades.parquet")
    assert "unknown grader; did you mean bert?" in refused("--grader", "brt")
    assert "--audit_questions 0: at least 1" in refused("--audit_questions", "0")
    assert "--min_kappa -2.0: between -1 and 1" in refused("--min_kappa", "-2")
    for name in ("min_accuracy", "max_flips", "max_order_flips", "max_injection_flips"):
        for value in ("1.5", "-0.1"):
            assert f"--{name} {value}: a share, 0 to 1" in refused(f"--{name}", value)


def test_another_run_is_not_replaced(tmp_path: Path, small_data: Path, reward_run: Path) -> None:
    own = config(tmp_path, small_data, reward_run, grader="rule:No")
    done = run.run(own)
    (done / "results.json").write_text(json.dumps({"method": "ppo"}))
    with pytest.raises(InputError, match="holds another run"):
        run.run(own)
