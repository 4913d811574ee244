"""Faults of the server of grader api: retried, counted as failed grades, or the end of the grading."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_api import LABELS, QUESTIONS, config, graded

from conftest import cells
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders import export
from eightball_ppo.graders.api import client
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS
from judge_server import JudgeServer


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as judge:
        yield judge


@pytest.fixture
def judge(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> JudgeServer:
    monkeypatch.setattr(client, "MIN_BACKOFF", 0.01)
    server.reset()
    return server


BAD = QUESTIONS[5]  # the one that meets the faults


TRANSIENT = [
    *[{"kind": "429", "times": 1, "retry_after": 0.5}, {"kind": "500", "times": 2}, {"kind": "503", "times": 1}],
    *[{"kind": "hang", "times": 1}, {"kind": "reset", "times": 1}, {"kind": "truncated_json", "times": 1}],
    *[{"kind": "html", "times": 1}, {"kind": "other_id", "times": 1}],
]


PERSISTENT = [
    *[("hang", "failed", "no answer within --timeout 0.5 s (3 tries)"), ("500", "failed", "status 500")],
    *[("reset", "failed", "connection failed"), ("html", "failed", "no JSON (text/html")],
    *[("other_id", "failed", "to another request"), ("400", "failed", "status 400")],
    *[("wrong_label", "failed", "anana"), ("empty_choices", "failed", "no choices in the reply")],
    *[("null_content", "failed", "content None in the reply"), ("refusal", "refused", "I'm sorry")],
    *[("refusal_field", "refused", "refusal"), ("content_filter", "refused", "content filter")],
]


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault["kind"])
def test_a_transient_fault_costs_a_retry_and_no_grade(
    judge: JudgeServer, tmp_path: Path, fault: dict[str, Any]
) -> None:
    undisturbed = graded(config(judge, tmp_path / "undisturbed"))
    judge.reset(faults=[{**fault, "match": BAD}])
    budget, started = Budget(), time.monotonic()
    disturbed = graded(config(judge, tmp_path, timeout=1 if fault["kind"] == "hang" else 20), budget)
    assert np.array_equal(cells(disturbed, "score"), cells(undisturbed, "score"))
    assert budget.calls == disturbed.calls == len(QUESTIONS) + fault["times"] == judge.stats()["requests"]
    assert time.monotonic() - started > fault.get("retry_after", 0)


@pytest.mark.parametrize(
    ("mode", "kind", "status", "detail"),
    [
        *[pytest.param("logprobs", *fault, id=f"logprobs-{fault[0]}") for fault in PERSISTENT],
        *[pytest.param(m, *fault, id=f"{m}-{fault[0]}") for m in ("schema", "text") for fault in PERSISTENT[-6:]],
        ("logprobs", "nan", "failed", "log-probability"),
        ("choice", "nan", "failed", ""),
        ("choice", "other_key", "failed", ""),
    ],
)
def test_a_persistent_fault_costs_one_grade_which_is_requested_again(
    judge: JudgeServer, tmp_path: Path, kind: str, status: str, detail: str, mode: str
) -> None:
    undisturbed = graded(config(judge, tmp_path / "undisturbed", api_mode=mode))
    judge.reset(faults=[{"kind": kind, "match": BAD}])
    settings = config(judge, tmp_path, timeout=0.5 if kind == "hang" else 20, api_mode=mode)
    grades = graded(settings)
    row = QUESTIONS.index(BAD)
    good = [i for i in range(len(QUESTIONS)) if i != row]
    assert np.array_equal(cells(grades, "score")[good], cells(undisturbed, "score")[good])
    assert np.isnan(cells(grades, "score")[row]).all()
    assert grades.count == {**dict.fromkeys(("failed", "refused", "skipped"), 0), "ok": 3 * len(good), status: 3}
    assert len(grades.details) == 1 and detail.lower() in grades.details[0].lower() and repr(BAD) in grades.details[0]
    judge.reset()
    assert np.array_equal(cells(graded(settings), "score"), cells(undisturbed, "score"))
    assert judge.stats()["by_question"] == {BAD: 1}


def test_a_server_that_is_down_for_a_while_costs_no_grade(judge: JudgeServer, tmp_path: Path) -> None:
    undisturbed = graded(config(judge, tmp_path / "undisturbed"))
    judge.reset(down_for={"after_requests": 4, "seconds": 2})
    client.MIN_BACKOFF = 0.1
    assert np.array_equal(cells(graded(config(judge, tmp_path, max_retries=5)), "score"), cells(undisturbed, "score"))


@pytest.mark.parametrize(("mass", "failed"), [(0.3, 0), (0.6, 3 * len(QUESTIONS))])
def test_probability_on_other_words_is_recorded_and_fails_above_one_half(
    judge: JudgeServer, tmp_path: Path, mass: float, failed: int
) -> None:
    judge.reset(missing_mass=mass)
    grades = graded(config(judge, tmp_path))
    assert grades.count["failed"] == failed
    if failed:
        assert "0.60 of the probability" in grades.details[0]
    else:
        assert grades.missing_mass_S.tolist() == pytest.approx([0.3] * len(QUESTIONS), abs=1e-3)


def test_a_refused_key_stops_grading_and_keeps_the_grades_so_far(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "401", "match": BAD}])
    settings = config(judge, tmp_path, max_concurrency=1)
    with pytest.raises(InputError, match="the server answers 401, the key is refused"):
        graded(settings)
    judge.reset()
    graded(settings)
    assert BAD in (asked := judge.stats()["by_question"]) and len(asked) == len(QUESTIONS) - QUESTIONS.index(BAD)


def test_too_many_failures_end_with_the_fix(judge: JudgeServer, tmp_path: Path) -> None:
    """11 of 12 grades are good: enough at 10 %, too few at the default 5 %."""
    judge.reset(faults=[{"kind": "refusal", "match": BAD}])
    data = tmp_path / "data"
    data.mkdir()
    (data / "rl.jsonl").write_text("".join(f'{{"question": "{question}"}}\n' for question in QUESTIONS))
    options: dict[str, Any] = {"dataset_name": str(data), "splits": ["rl"], "labels": list(EIGHTBALL_LABELS)}
    with pytest.raises(IncompleteError, match=r"8.3% of 36 grades failed \(0 failed, 3 refused.*run the same command"):
        export.run(config(judge, tmp_path, max_grade_failures=0.05, **options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "grades.sqlite3"]
    assert export.run(config(judge, tmp_path, max_grade_failures=0.1, **options))
    assert judge.stats()["by_question"] == {question: 1 + (question == BAD) for question in QUESTIONS}


def test_auto_does_not_mistake_an_outage_for_a_missing_ability(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "503", "times": 2}])
    settings = config(judge, tmp_path, api_mode="auto", max_retries=1)
    with pytest.raises(InputError, match=r"no usable answer from the server \(status 503.*\(2 tries\)"):
        graded(settings)
    judge.reset()
    graded(settings)
    with GradeStore(settings.grade_store) as store:
        assert load_graders(settings, LABELS, store, Budget()).settings["mode"] == "logprobs"
