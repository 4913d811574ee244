"""A training that diverges stops at once and says where to look; so does a full disk; a grader out of memory halves."""

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import CaptureFixture, LogCaptureFixture, MonkeyPatch
from torch import Tensor

import tiny
from conftest import LABELS
from eightball_ppo.cli import parser
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.errors import IncompleteError, InputError, TrainingDivergedError
from eightball_ppo.graders import bert
from eightball_ppo.graders.auto_batch_size import AutoBatchSize
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import ppo, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.run import Run, read_metrics, read_results
from eightball_ppo.training import grad_norm
from eightball_ppo.training.grad_norm import GradNormCallback


@pytest.fixture
def config(ruled: dict[str, Any], tmp_path: Path, no_figures: None) -> Callable[..., PPOConfig]:
    batch = {"num_mini_batches": 2, "per_device_train_batch_size": 24, "total_episodes": 240}
    return lambda **more: PPOConfig(**{**ruled, **batch, "output_dir": str(tmp_path / "run"), **more})


def test_a_score_that_is_not_finite_stops_and_writes_its_batch(
    config: Callable[..., PPOConfig], tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    forward, updates = BudgetedScores.forward, []

    def broken(self: BudgetedScores, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        updates.append(1)
        score_B = forward(self, rows_B, actions_B)
        return score_B / 0.0 if len(updates) == 3 else score_B

    monkeypatch.setattr(BudgetedScores, "forward", broken)
    monkeypatch.setattr(parser, "parse", lambda *_: config())
    with pytest.raises(SystemExit) as end:
        parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", argv=[])
    assert end.value.code == 4
    file = tmp_path / "run.unfinished" / "not-finite-0.json"
    message = capsys.readouterr().err.splitlines()[-1]
    assert "a score is not finite in update 3" in message and str(file) in message and "--learning_rate" in message
    batch = json.loads(file.read_text())
    assert batch["update"] == 3 and len(batch["answers"]) == 24
    first = batch["answers"][0]
    assert first["score"] is None and first["answer"] in LABELS and len(first["logits"]) == 3 and first["question"]
    assert len(read_metrics(tmp_path / "run.unfinished")) == 2


def test_a_gradient_that_is_not_finite_is_never_applied(tmp_path: Path) -> None:
    settings, model = tiny.config(total_episodes=48), tiny.classifier()
    watch = GradNormCallback(None, TrainingDivergedError)
    trainer, models = tiny.trainer(settings, model, tiny.tokens(24), tiny.scores(24), tmp_path, [watch])
    parameter = next(p for p in models.policy.parameters() if p.requires_grad)
    steps: list[int] = []

    def spoil(gradient: Tensor) -> Tensor:
        steps.append(1)
        return gradient * float("nan") if len(steps) == 3 else gradient

    parameter.register_hook(spoil)
    with pytest.raises(TrainingDivergedError, match="the gradient"):
        ppo.run_trainer(trainer, settings)
    assert len(steps) == 3 and all(torch.isfinite(p).all() for p in models.policy.parameters())


def test_sft_stops_at_a_gradient_that_is_not_finite(small_data: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm, "total_norm", lambda _: torch.tensor(float("inf")))
    options: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "disable_tqdm": True}
    with pytest.raises(TrainingDivergedError, match=r"the gradient is not finite in step 1; .*not-finite-0.json"):
        sft.train(SFTConfig(output_dir=str(tmp_path / "run"), **options))
    batch = json.loads((tmp_path / "run.unfinished" / "not-finite-0.json").read_text())
    assert len(batch["questions"]) == len(batch["labels"]) == 2 and batch["questions"][0].endswith("?")


def test_stop_kl_ends_the_run_as_finished(config: Callable[..., PPOConfig]) -> None:
    run = run_method(config(stop_kl=0.05, learning_rate=0.002))
    rows, results = read_metrics(run), read_results(run)
    assert [row["exact/kl"] > 0.05 for row in rows] == [False] * (len(rows) - 1) + [True]
    assert results["stopped_by"] == "stop_kl" and results["updates"] == len(rows) < 10
    assert results["splits"]["train"]["kl"] == pytest.approx(rows[-1]["exact/kl"])
    with pytest.raises(InputError, match=r"--stop_kl 0.2: must be below --max_kl 0.1"):
        config(stop_kl=0.2, max_kl=0.1)


@pytest.mark.slow
def test_max_kl_is_an_error_and_keeps_the_best_policy(config: Callable[..., PPOConfig], tmp_path: Path) -> None:
    straight = run_method(config(save_steps=1, max_kl=1000.0, output_dir=str(tmp_path / "straight")))
    rows = read_metrics(straight)
    max_kl = sorted(row["exact/kl"] for row in rows)[len(rows) // 2]
    passed = next(i for i, row in enumerate(rows) if row["exact/kl"] > max_kl)
    best = max(range(passed), key=lambda i: rows[i]["exact/objective"])
    with pytest.raises(TrainingDivergedError, match=rf"--max_kl .*the policy of update {best + 1}, "):
        run_method(config(max_kl=max_kl))
    kept = tmp_path / "run.unfinished" / "best"
    expected = straight / f"checkpoint-{best + 1}" / "model.safetensors"
    assert (kept / "model.safetensors").read_bytes() == expected.read_bytes()
    load_classifier(str(kept), "--model_name_or_path")
    with pytest.raises(InputError, match="holds the best policy"):
        run_method(config(max_kl=max_kl))


def test_a_full_disk_under_the_metrics_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(IncompleteError, match=r"No space left on device"),
        Run(SFTConfig(output_dir=str(tmp_path / "run")), "sft") as run,
    ):
        (run.path / "metrics.jsonl").symlink_to("/dev/full")
        run.log({"step": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: y"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_grader_out_of_memory_halves_its_batch(full: Exception, caplog: LogCaptureFixture) -> None:
    batch, sizes = AutoBatchSize(16), []

    def work(size: int) -> str:
        sizes.append(size)
        if size > 4:
            raise full
        return "graded"

    with caplog.at_level(logging.WARNING):
        assert batch.run(work) == "graded" and batch.run(work) == "graded"
    assert sizes == [16, 8, 4, 4] and len(caplog.records) == 2


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), IncompleteError, "out of memory with a single question"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
    ],
)
def test_a_grader_that_cannot_continue_raises(error: Exception, expected: type[Exception], message: str) -> None:
    def fail(size: int) -> None:
        raise error

    with pytest.raises(expected, match=message):
        AutoBatchSize(8).run(fail)


def test_local_grader_reduces_its_batch_and_gives_the_same_grades(monkeypatch: MonkeyPatch) -> None:
    grader, logits, sizes = bert.BertGrader.random_head(LabelSet.of(LABELS), seed=1), bert.text_logits_NK, []

    def small_memory(model: Any, tokenizer: Any, questions: Any, batch_size: int) -> Tensor:
        sizes.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(model, tokenizer, questions, batch_size)

    questions = [f"Will I win {i} times?" for i in range(20)]
    expected_BK = grader.logp_BK(questions)
    monkeypatch.setattr(bert, "text_logits_NK", small_memory)
    assert torch.allclose(grader.logp_BK(questions), expected_BK, atol=1e-5)
    assert sizes == [16, 8, 4]
