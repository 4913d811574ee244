"""Grader api against a scripted server on this machine: every mode, limit and fault."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import cells, read_rows
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.errors import InputError
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
    settings: dict[str, Any] = {
        **{"grader": "api", "grader_model": "judge", "grader_base_url": judge.base_url, "api_mode": "logprobs"},
        **{"output_dir": str(directory / "grades"), "grade_store": str(directory / "grades.sqlite3")},
        **{"disable_tqdm": True, "max_retries": 2, "max_grade_failures": 1.0},
    }
    return GradeConfig(**{**settings, **options})


def graded(settings: GradeConfig, budget: Budget | None = None, questions: list[str] = QUESTIONS) -> ScoreTable:
    """Fill and read through the store of `settings`."""
    with GradeStore(settings.grade_store) as store:
        source = load_graders(settings, LABELS, store, budget or Budget())
        source.fill(questions)
        return source.read_chunk(questions)


def test_log_probabilities_are_those_of_the_judge(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(gold_labels={QUESTIONS[0]: "No"}, missing_mass=0.2)
    p_NK = graded(config(judge, tmp_path)).logp_NK.exp()
    assert p_NK[0].tolist() == pytest.approx([0.075, 0.85, 0.075], abs=1e-3)
    torch.testing.assert_close(p_NK.sum(1), torch.ones(len(QUESTIONS)))


@pytest.mark.parametrize(
    ("abilities", "mode"),
    [({}, "logprobs"), ({"logprobs": False}, "schema"), ({"logprobs": False, "schema": False}, "text")],
)
@pytest.mark.parametrize("prompt", ["wanted_answer", "rubric"])
def test_auto_takes_the_best_mode_and_a_second_grading_makes_no_call(
    judge: JudgeServer, tmp_path: Path, abilities: dict[str, Any], mode: str, prompt: str
) -> None:
    judge.reset(**abilities, gold_labels=dict.fromkeys(QUESTIONS, "Maybe"))
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


def test_the_choice_endpoint_gives_probabilities(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(logprobs=False, gold_labels={QUESTIONS[0]: "No"})
    grades = graded(config(judge, tmp_path, api_mode="choice"))
    assert grades.complete_N.all() and grades.logp_NK[0].exp()[1].item() == pytest.approx(0.85, abs=0.02)


def test_samples_become_smoothed_frequencies(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(sampled=True, logprobs=False, gold_labels=dict.fromkeys(QUESTIONS, "Yes"))
    grades = graded(config(judge, tmp_path, api_mode="text", grader_samples=20))
    count_NK = grades.logp_NK.exp() * (20 + 3) - 1
    torch.testing.assert_close(count_NK, count_NK.round(), atol=1e-3, rtol=0)
    assert 0.7 < count_NK[:, 0].mean().item() / 20 < 0.95  # the judge's own probability is 0.85


def test_ratings_are_expected_ratings(judge: JudgeServer, tmp_path: Path) -> None:
    judge.reset(gold_labels=dict.fromkeys(QUESTIONS, "Yes"))
    grades = graded(config(judge, tmp_path, grader_prompt="rubric"))
    assert grades.calls == 3 * len(QUESTIONS)
    assert ((cells(grades, "score") >= 1) & (cells(grades, "score") <= 10)).all()
    assert (cells(grades, "score")[:, 0] > 8).all() and (cells(grades, "score")[:, 1] < 4).all()


def test_contextual_calibration_subtracts_the_scores_of_an_empty_question(judge: JudgeServer, tmp_path: Path) -> None:
    plain = graded(config(judge, tmp_path)).logp_NK
    free = graded(config(judge, tmp_path), questions=["N/A"]).logp_NK
    calibrated = graded(config(judge, tmp_path, contextual_calibration=True)).logp_NK
    torch.testing.assert_close(calibrated, (plain - free).log_softmax(-1), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="--contextual_calibration: needs log-probabilities"):
        graded(config(judge, tmp_path, contextual_calibration=True, api_mode="text"))


def test_budgets_of_calls_money_and_time_are_not_exceeded(judge: JudgeServer, tmp_path: Path) -> None:
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


def test_requests_per_minute_and_in_flight_are_limited(judge: JudgeServer, tmp_path: Path) -> None:
    started = time.monotonic()
    graded(config(judge, tmp_path, requests_per_minute=1200))
    assert time.monotonic() - started > (len(QUESTIONS) - 1) * 0.05
    assert judge.stats()["in_flight_max"] <= 8
    judge.reset(delay=0.05)
    graded(config(judge, tmp_path / "few", max_concurrency=3))
    assert judge.stats()["in_flight_max"] == 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *[("2", 2.0), ("0.5", 0.5), ("-3", 0.0), ("1e9", client.MAX_RETRY_AFTER), ("soon", None), ("nan", None)],
        *[("", None), ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0)],
    ],
)
def test_retry_after_as_seconds_and_as_a_date(
    header: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.time, "time", lambda: 10.0)
    assert client.retry_after(header) == seconds


def test_addresses_are_checked_and_passwords_in_them_are_sent_but_never_written(
    judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EIGHTBALL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for address in ("http://[::1:8000/v1", "http://127.0.0.1:x/v1", "ftp://127.0.0.1/v1", "http:///v1"):
        with pytest.raises(InputError, match="an address like http"):
            graded(config(judge, tmp_path, grader_base_url=address))
    secret = judge.base_url.replace("://", "://user:pa%40ss@")
    assert client.split_userinfo(secret) == (judge.base_url, "Basic dXNlcjpwYUBzcw==")
    graded(config(judge, tmp_path, grader_base_url=secret))
    assert judge.stats()["keys"] == len(QUESTIONS)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"pa%40ss" in file.read_bytes()]


def test_auto_uses_a_schema_for_labels_that_begin_alike(judge: JudgeServer, tmp_path: Path) -> None:
    labels = LabelSet.of(["Very likely", "Very unlikely", "Unsure"])
    settings = config(judge, tmp_path, api_mode="auto")
    with GradeStore(settings.grade_store) as store:
        source = load_graders(settings, labels, store, Budget())
        source.fill(QUESTIONS)
        assert source.settings["mode"] == "schema" and source.read(QUESTIONS).complete_N.all()


def test_secrets_are_taken_out_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIGHTBALL_API_KEY", " sk-0123456789\n")
    monkeypatch.setenv("OPENAI_API_KEY", "ollama")
    assert redaction.api_key() == "sk-0123456789"
    text = "key sk-0123456789 at http://user:se@cret@127.0.0.1/v1 of ollama/llama3, a@b"
    assert redaction.redact(text) == "key *** at http://***@127.0.0.1/v1 of ollama/llama3, a@b"
    monkeypatch.setenv("EIGHTBALL_API_KEY", "sk-\u00e9")
    with pytest.raises(InputError, match="EIGHTBALL_API_KEY: holds characters that no key has"):
        redaction.api_key()
