"""Grader api against a scripted server on this machine: every mode, every fault; no grade lost, none invented."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import cells, read_rows
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders import export, prompts
from eightball_ppo.graders.api import client
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.score_table import ScoreTable
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.runtime import redaction
from judge_server import JudgeServer

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [row["question"] for row in read_rows("heldout")[:12]]
BAD = QUESTIONS[5]  # the one that meets the faults


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as judge:
        yield judge


@pytest.fixture
def judge(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> JudgeServer:
    monkeypatch.setattr(client, "MIN_BACKOFF", 0.01)
    server.reset()
    return server


def config(judge: JudgeServer, directory: Path, **options: Any) -> GradeConfig:
    given: dict[str, Any] = {
        "grader": "api",
        "grader_model": "judge",
        "grader_base_url": judge.base_url,
        "api_mode": "logprobs",
        "output_dir": str(directory / "grades"),
        "grade_store": str(directory / "grades.sqlite3"),
        "disable_tqdm": True,
        "max_retries": 2,
        "max_grade_failures": 1.0,
    }
    return GradeConfig(**{**given, **options})


def graded(settings: GradeConfig, budget: Budget | None = None, questions: list[str] = QUESTIONS) -> ScoreTable:
    """Fill and read through the store of `settings`."""
    with GradeStore(settings.grade_store) as store:
        source = load_graders(settings, LABELS, store, budget or Budget())
        source.fill(questions)
        return source.read_chunk(questions)


def test_log_probabilities_are_those_of_the_judge(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(wishes={QUESTIONS[0]: "No"}, missing_mass=0.2)
    p_NK = graded(config(judge, tmp_path)).logp_NK.exp()
    assert p_NK[0].tolist() == pytest.approx([0.075, 0.85, 0.075], abs=1e-3)
    torch.testing.assert_close(p_NK.sum(1), torch.ones(len(QUESTIONS)))


@pytest.mark.parametrize(
    ("abilities", "mode"),
    [({}, "logprobs"), ({"logprobs": False}, "schema"), ({"logprobs": False, "schema": False}, "text")],
)
@pytest.mark.parametrize("prompt", ["wanted_answer", "rubric"])
def test_auto_takes_the_best_mode_and_asks_no_more_the_second_time(
    judge: JudgeServer, tmp_path: Path, abilities: dict[str, Any], mode: str, prompt: str
) -> None:
    judge.reset(**abilities, wishes=dict.fromkeys(QUESTIONS, "Maybe"))
    settings = config(judge, tmp_path, api_mode="auto", grader_prompt=prompt)
    with GradeStore(settings.grade_store) as store:
        source = load_graders(settings, LABELS, store, Budget())
        assert source.settings["mode"] == mode
    grades = graded(settings)
    assert grades.complete_N.all() and (grades.logp_NK.argmax(1) == LABELS.id_of("Maybe")).all()
    asked = judge.stats()["requests"]
    probes = {"logprobs": 1, "schema": 2, "text": 3}[mode]
    assert asked == probes + len(QUESTIONS) * (3 if prompt == "rubric" else 1)
    graded(settings)
    assert judge.stats()["requests"] == asked


def test_the_choice_endpoint_is_a_mode_of_its_own(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(logprobs=False, wishes={QUESTIONS[0]: "No"})
    grades = graded(config(judge, tmp_path, api_mode="choice"))
    assert grades.complete_N.all() and grades.logp_NK[0].exp()[1].item() == pytest.approx(0.85, abs=0.02)


def test_samples_become_smoothed_frequencies(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(sampled=True, logprobs=False, wishes=dict.fromkeys(QUESTIONS, "Yes"))
    grades = graded(config(judge, tmp_path, api_mode="text", grader_samples=20))
    count_NK = grades.logp_NK.exp() * (20 + 3) - 1
    torch.testing.assert_close(count_NK, count_NK.round(), atol=1e-3, rtol=0)
    assert 0.7 < count_NK[:, 0].mean().item() / 20 < 0.95  # the judge's own probability is 0.85


def test_ratings_are_expected_ratings(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(wishes=dict.fromkeys(QUESTIONS, "Yes"))
    grades = graded(config(judge, tmp_path, grader_prompt="rubric"))
    assert grades.calls == 3 * len(QUESTIONS)
    assert ((cells(grades, "score") >= 1) & (cells(grades, "score") <= 10)).all()
    assert (cells(grades, "score")[:, 0] > 8).all() and (cells(grades, "score")[:, 1] < 4).all()


def test_contextual_calibration_subtracts_the_question_without_content(judge: JudgeServer, tmp_path: Path) -> None:
    plain = graded(config(judge, tmp_path)).logp_NK
    free = graded(config(judge, tmp_path), questions=["N/A"]).logp_NK
    calibrated = graded(config(judge, tmp_path, contextual_calibration=True)).logp_NK
    torch.testing.assert_close(calibrated, (plain - free).log_softmax(-1), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="--contextual_calibration: needs log-probabilities"):
        graded(config(judge, tmp_path, contextual_calibration=True, api_mode="text"))


MENDED = [
    {"kind": "429", "times": 1, "retry_after": 1},
    {"kind": "500", "times": 2},
    {"kind": "503", "times": 1},
    {"kind": "hang", "times": 1},
    {"kind": "reset", "times": 1},
    {"kind": "truncated_json", "times": 1},
    {"kind": "html", "times": 1},
    {"kind": "other_id", "times": 1},
]
LOST = [
    ("hang", "failed", "no answer within --timeout 0.3 s (3 tries)"),
    ("500", "failed", "status 500"),
    ("reset", "failed", "connection failed"),
    ("html", "failed", "no JSON (text/html"),
    ("other_id", "failed", "to another request"),
    ("400", "failed", "status 400"),
    ("wrong_label", "failed", "anana"),
    ("empty_choices", "failed", "no choices in the reply"),
    ("null_content", "failed", "content None in the reply"),
    ("refusal", "refused", "I'm sorry"),
    ("refusal_field", "refused", "refusal"),
    ("content_filter", "refused", "content filter"),
]


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: fault["kind"])
def test_a_fault_that_passes_costs_a_retry_and_no_grade(
    judge: JudgeServer, tmp_path: Path, fault: dict[str, Any]
) -> None:
    undisturbed = graded(config(judge, tmp_path / "undisturbed"))
    judge.reset(faults=[{**fault, "match": BAD}])
    budget, started = Budget(), time.monotonic()
    disturbed = graded(config(judge, tmp_path, timeout=0.3), budget)
    assert np.array_equal(cells(disturbed, "score"), cells(undisturbed, "score"))
    assert budget.calls == disturbed.calls == len(QUESTIONS) + fault["times"] == judge.stats()["requests"]
    assert time.monotonic() - started > fault.get("retry_after", 0)


@pytest.mark.parametrize(("kind", "status", "detail"), LOST)
@pytest.mark.parametrize("mode", ["logprobs", "schema", "text"])
def test_a_fault_that_stays_costs_one_grade_and_is_asked_again(
    judge: JudgeServer, tmp_path: Path, kind: str, status: str, detail: str, mode: str
) -> None:
    undisturbed = graded(config(judge, tmp_path / "undisturbed", api_mode=mode))
    judge.reset(faults=[{"kind": kind, "match": BAD}])
    settings = config(judge, tmp_path, timeout=0.3, api_mode=mode)
    grades = graded(settings)
    row = QUESTIONS.index(BAD)
    good = [i for i in range(len(QUESTIONS)) if i != row]
    assert (
        np.array_equal(cells(grades, "score")[good], cells(undisturbed, "score")[good])
        and np.isnan(cells(grades, "score")[row]).all()
    )
    assert grades.count == {"ok": 3 * len(good), status: 3, "failed": 3 * (status == "failed")} | {
        name: 0 for name in ("failed", "refused", "skipped") if name != status
    }
    assert len(grades.details) == 1 and detail.lower() in grades.details[0].lower() and repr(BAD) in grades.details[0]
    judge.reset()
    assert np.array_equal(cells(graded(settings), "score"), cells(undisturbed, "score"))
    assert judge.stats()["by_question"] == {BAD: 1}  # only what was missing


def test_a_log_probability_that_is_not_a_number_is_no_grade(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "nan", "match": BAD}])
    for mode in ("logprobs", "choice"):
        grades = graded(config(judge, tmp_path, api_mode=mode))
        assert grades.count["failed"] == 3 and np.isnan(cells(grades, "score")[QUESTIONS.index(BAD)]).all()


def test_an_answer_of_choice_under_another_key_is_no_grade(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "other_key", "match": BAD}])
    assert graded(config(judge, tmp_path, api_mode="choice")).count["failed"] == 3


def test_a_server_that_is_gone_for_five_seconds_costs_nothing(judge: JudgeServer, tmp_path: Path) -> None:
    undisturbed = graded(config(judge, tmp_path / "undisturbed"))
    judge.reset(down_for={"after_requests": 4, "seconds": 5})
    client.MIN_BACKOFF = 0.25  # as it is shipped
    assert np.array_equal(cells(graded(config(judge, tmp_path, max_retries=5)), "score"), cells(undisturbed, "score"))


def test_probability_on_other_words_is_no_grade(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(missing_mass=0.6)
    grades = graded(config(judge, tmp_path))
    assert grades.count["failed"] == 3 * len(QUESTIONS) and "0.60 of the probability" in grades.details[0]


def test_a_refused_key_stops_at_once_and_keeps_what_was_graded(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "401", "match": BAD}])
    settings = config(judge, tmp_path, max_concurrency=1)
    with pytest.raises(InputError, match="the server answers 401, the key is refused"):
        graded(settings)
    judge.reset()
    graded(settings)
    assert BAD in (asked := judge.stats()["by_question"]) and len(asked) == len(QUESTIONS) - QUESTIONS.index(BAD)


def test_an_address_where_nobody_listens(tmp_path: Path, judge: JudgeServer) -> None:
    settings = config(judge, tmp_path, grader_base_url="http://127.0.0.1:9/v1", api_mode="auto", max_retries=0)
    with pytest.raises(InputError, match=re.escape("--grader_base_url http://127.0.0.1:9/v1: no usable answer")):
        graded(settings)


def test_too_many_failures_end_with_what_to_do(judge: JudgeServer, tmp_path: Path) -> None:
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


def test_a_judge_that_only_fails_is_given_up_soon(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "refusal"}])
    budget = Budget()
    questions = [f"Is it {i}?" for i in range(500)]
    grades = graded(config(judge, tmp_path, max_grade_failures=0.5), budget, questions)
    assert budget.stopped is not None and budget.stopped.startswith("20 of 500 grades failed")
    assert 20 <= grades.count["refused"] / 3 <= 20 + 8 and budget.calls <= 20 + 8


def test_the_budget_in_calls_money_and_time_is_never_overspent(judge: JudgeServer, tmp_path: Path) -> None:
    budget = Budget(max_calls=5)
    assert graded(config(judge, tmp_path), budget).count == {"ok": 15, "skipped": 21, "failed": 0, "refused": 0}
    assert judge.stats()["requests"] == budget.calls == 5 and budget.stopped == "--max_grader_calls 5 is spent"
    budget = Budget(max_cost=0.5, price_per_1k_tokens=1.0)
    graded(config(judge, tmp_path / "cost"), budget)
    assert 0 < budget.cost <= 0.5 and budget.stopped == "--max_cost 0.5 is spent"
    judge.reset(delay=0.3)
    budget, started = Budget(timeout=0.8), time.monotonic()
    grades = graded(config(judge, tmp_path / "time", max_concurrency=2), budget)
    assert 2 <= grades.count["ok"] / 3 <= 6 and grades.count["skipped"]
    assert time.monotonic() - started < 2 and budget.stopped == "--grading_timeout 0.8 is over"


def test_calls_are_spread_over_the_minute(judge: JudgeServer, tmp_path: Path) -> None:
    started = time.monotonic()
    graded(config(judge, tmp_path, requests_per_minute=600))
    assert time.monotonic() - started > (len(QUESTIONS) - 1) * 0.1
    assert judge.stats()["in_flight_max"] <= 8


def test_no_more_calls_in_flight_than_allowed(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(delay=0.05)
    graded(config(judge, tmp_path, max_concurrency=3))
    assert judge.stats()["in_flight_max"] == 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("1e9", client.MAX_RETRY_AFTER),
        ("soon", None),
        ("nan", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
    ],
)
def test_retry_after_in_both_its_forms(header: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.time, "time", lambda: 10.0)
    assert client.retry_after(header) == seconds


def test_user_and_password_of_an_address_are_sent_and_never_written(
    judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EIGHTBALL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    secret = judge.base_url.replace("://", "://user:pa%40ss@")
    assert client.split_userinfo(secret) == (judge.base_url, "Basic dXNlcjpwYUBzcw==")
    graded(config(judge, tmp_path, grader_base_url=secret))
    assert judge.stats()["keys"] == len(QUESTIONS)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"pa%40ss" in file.read_bytes()]


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1:8000/v1",
        "http://127.0.0.1:99999999/v1",
        "http://127.0.0.1:x/v1",
        "ftp://127.0.0.1/v1",
        "http:///v1",
    ],
)
def test_an_address_that_cannot_be(judge: JudgeServer, tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match="an address like http"):
        graded(config(judge, tmp_path, grader_base_url=address))


def test_auto_does_not_take_a_bad_moment_for_what_the_server_can_do(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(faults=[{"kind": "503", "times": 2}])
    settings = config(judge, tmp_path, api_mode="auto", max_retries=1)
    with pytest.raises(InputError, match=r"no usable answer from the server \(status 503.*\(2 tries\)"):
        graded(settings)
    judge.reset()
    graded(settings)
    with GradeStore(settings.grade_store) as store:
        assert load_graders(settings, LABELS, store, Budget()).settings["mode"] == "logprobs"


def test_auto_asks_labels_that_begin_alike_by_schema(judge: JudgeServer, tmp_path: Path) -> None:
    labels = LabelSet.of(["Very likely", "Very unlikely", "Unsure"])
    settings = config(judge, tmp_path, api_mode="auto")
    with GradeStore(settings.grade_store) as store:
        source = load_graders(settings, labels, store, Budget())
        source.fill(QUESTIONS)
        assert source.settings["mode"] == "schema" and source.read(QUESTIONS).complete_N.all()


def test_auto_and_contextual_calibration(judge: JudgeServer, tmp_path: Path) -> None:
    grades = graded(config(judge, tmp_path, api_mode="auto", contextual_calibration=True))
    assert grades.complete_N.all()
    budget = Budget(max_calls=1)
    grades = graded(config(judge, tmp_path / "spent", contextual_calibration=True, api_mode="logprobs"), budget)
    assert grades.count["skipped"] == 3 * len(QUESTIONS)


def test_the_prompt_by_name_and_by_path_is_one_grader(judge: JudgeServer, tmp_path: Path) -> None:
    graded(config(judge, tmp_path))
    asked = judge.stats()["requests"]
    (tmp_path / "mine.jinja").write_text((prompts.DIRECTORY / "wanted_answer.jinja").read_text())
    graded(config(judge, tmp_path, grader_prompt=str(tmp_path / "mine.jinja")))
    assert judge.stats()["requests"] == asked


def test_the_mass_on_other_words_is_kept(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(missing_mass=0.3)
    assert graded(config(judge, tmp_path)).missing_mass_S.tolist() == pytest.approx([0.3] * len(QUESTIONS), abs=1e-3)


def test_secrets_are_taken_out_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIGHTBALL_API_KEY", " sk-0123456789\n")
    monkeypatch.setenv("OPENAI_API_KEY", "ollama")
    assert redaction.api_key() == "sk-0123456789"
    text = "key sk-0123456789 at http://user:se@cret@127.0.0.1/v1 of ollama/llama3, a@b"
    assert redaction.redact(text) == "key *** at http://***@127.0.0.1/v1 of ollama/llama3, a@b"
    monkeypatch.setenv("EIGHTBALL_API_KEY", "sk-\u00e9")
    with pytest.raises(InputError, match="EIGHTBALL_API_KEY: holds characters that no key has"):
        redaction.api_key()
