"""A training that goes wrong stops at once and says where to look, as does a full disk; a full memory is no end."""

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from conftest import LABELS
from eightball_ppo.cli import parser
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.errors import IncompleteError, InputError, TrainingDivergedError
from eightball_ppo.graders.auto_batch_size import AutoBatchSize
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods import ppo, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime import atomic_io
from eightball_ppo.runtime.run import Run, read_metrics, read_results
from eightball_ppo.training import grad_norm
from eightball_ppo.training.grad_norm import GradNormCallback


@pytest.fixture
def config(ruled: dict[str, Any], tmp_path: Path) -> Callable[..., PPOConfig]:
    def made(**more: Any) -> PPOConfig:
        options: dict[str, Any] = {
            **ruled,
            "num_mini_batches": 2,
            "per_device_train_batch_size": 24,
            "total_episodes": 240,
            "output_dir": str(tmp_path / "run"),
        }
        return PPOConfig(**{**options, **more})

    return made


# --- not finite


def test_a_score_that_is_not_finite_stops_and_leaves_its_batch(
    config: Callable[..., PPOConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked, updates = BudgetedScores.forward, []

    def broken(self: BudgetedScores, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        updates.append(1)
        score_B = asked(self, rows_B, actions_B)
        return score_B / 0.0 if len(updates) == 3 else score_B

    monkeypatch.setattr(BudgetedScores, "forward", broken)
    monkeypatch.setattr(parser, "parse", lambda *_: config())
    with pytest.raises(SystemExit) as end:
        parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", argv=[])
    assert end.value.code == 4
    said = capsys.readouterr().err.splitlines()[-1]
    file = tmp_path / "run.unfinished" / "not-finite-0.json"
    assert f"a score is not finite in update 3; its batch is in {file}; lower --learning_rate" in said
    told = json.loads(file.read_text())
    assert told["update"] == 3 and len(told["answers"]) == 24
    first = told["answers"][0]
    assert first["score"] is None and first["answer"] in LABELS and len(first["logits"]) == 3 and first["question"]
    assert len(read_metrics(tmp_path / "run.unfinished")) == 2


def test_a_gradient_that_is_not_finite_is_never_used(tmp_path: Path) -> None:
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


def test_a_fit_stops_at_a_gradient_that_is_not_finite(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grad_norm, "total_norm", lambda _: torch.tensor(float("inf")))
    options: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "disable_tqdm": True}
    with pytest.raises(
        TrainingDivergedError, match=r"the gradient is not finite in step 1; its batch is in .*not-finite-0.json"
    ):
        sft.train(SFTConfig(output_dir=str(tmp_path / "run"), **options))
    told = json.loads((tmp_path / "run.unfinished" / "not-finite-0.json").read_text())
    assert len(told["questions"]) == len(told["labels"]) == 2 and told["questions"][0].endswith("?")


# --- too far


def test_target_kl_ends_as_a_success_and_max_kl_keeps_the_best_policy(
    config: Callable[..., PPOConfig], tmp_path: Path
) -> None:
    done = run_method(config(stop_kl=0.05, learning_rate=0.002))
    rows, results = read_metrics(done), read_results(done)
    assert [row["exact/kl"] > 0.05 for row in rows] == [False] * (len(rows) - 1) + [True]
    assert results["ended_by"] == "stop_kl" and results["updates"] == len(rows) < 10
    assert results["splits"]["train"]["kl"] == pytest.approx(rows[-1]["exact/kl"])

    with pytest.raises(
        TrainingDivergedError, match=r"the exact KL is .* above --max_kl 0.05; the policy of update \d+, with the b"
    ):
        run_method(config(max_kl=0.05, learning_rate=0.002, output_dir=str(tmp_path / "far")))
    unfinished = tmp_path / "far.unfinished"
    model, _ = load_classifier(str(unfinished / "best"), "--model_name_or_path")
    assert model.config.num_labels == 3
    with pytest.raises(InputError, match="holds the best policy of a run that diverged"):
        run_method(config(max_kl=0.05, learning_rate=0.002, output_dir=str(tmp_path / "far")))
    with pytest.raises(InputError, match=r"--stop_kl 0.2: must be below --max_kl 0.1"):
        config(stop_kl=0.2, max_kl=0.1)


def test_the_best_policy_is_that_of_the_row_with_the_best_objective_below_max_kl(
    config: Callable[..., PPOConfig], tmp_path: Path
) -> None:
    straight = run_method(config(save_steps=1, max_kl=1000.0, output_dir=str(tmp_path / "straight")))
    rows = read_metrics(straight)
    most = sorted(row["exact/kl"] for row in rows)[len(rows) // 2]
    passed = next(i for i, row in enumerate(rows) if row["exact/kl"] > most)
    best = max(range(passed), key=lambda i: rows[i]["exact/objective"])
    with pytest.raises(TrainingDivergedError, match=f"the policy of update {best + 1}, "):
        run_method(config(max_kl=most))
    kept = tmp_path / "run.unfinished" / "best" / "model.safetensors"
    assert kept.read_bytes() == (straight / f"checkpoint-{best + 1}" / "model.safetensors").read_bytes()


# --- a disk that is full


def test_a_full_disk_is_one_line_that_says_how_to_go_on(
    config: Callable[..., PPOConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, written = atomic_io._sync, []

    def full(path: Path) -> None:
        if path.name == "model.safetensors":
            written.append(path)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        synced(path)

    monkeypatch.setattr(atomic_io, "_sync", full)
    with pytest.raises(IncompleteError) as error:
        run_method(config(save_steps=2))
    assert "model.safetensors: No space left on device; make room" in str(error.value)
    assert str(error.value).endswith("; go on with --resume_from_checkpoint true, from checkpoint-2")
    unfinished = tmp_path / "run.unfinished"
    assert [path.name for path in unfinished.iterdir() if "checkpoint" in path.name] == ["checkpoint-2"]
    monkeypatch.setattr(atomic_io, "_sync", synced)
    assert len(read_metrics(run_method(config(save_steps=2, resume_from_checkpoint="true")))) == 10


def test_a_full_disk_under_the_metrics_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(IncompleteError, match=r"No space left on device; make room"),
        Run(SFTConfig(output_dir=str(tmp_path / "run")), "sft") as run,
    ):
        (run.path / "metrics.jsonl").symlink_to("/dev/full")
        run.log({"step": 1})
    assert not list(tmp_path.iterdir())


# --- a grader that does not fit into memory


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: y"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_grader_out_of_memory_goes_on_with_half(full: Exception, caplog: pytest.LogCaptureFixture) -> None:
    batch, tried = AutoBatchSize(16), []

    def work(size: int) -> str:
        tried.append(size)
        if size > 4:
            raise full
        return "graded"

    with caplog.at_level(logging.WARNING):
        assert batch.fitting(work) == "graded" and batch.fitting(work) == "graded"
    assert tried == [16, 8, 4, 4]
    assert [own.getMessage() for own in caplog.records] == [
        "the grader is out of memory with 16 questions at once: on with 8",
        "the grader is out of memory with 8 questions at once: on with 4",
    ]


def test_a_grader_without_memory_for_one_question_says_so_and_other_errors_pass() -> None:
    def nothing_fits(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(size: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(IncompleteError, match="out of memory with a single question; free some or take a smaller"):
        AutoBatchSize(8).fitting(nothing_fits)
    with pytest.raises(RuntimeError, match="shapes differ"):
        AutoBatchSize(8).fitting(broken)


def test_local_graders_ask_in_batches_that_fit(reward_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eightball_ppo.graders import bert

    grader, logits, sizes = bert.BertGrader.from_directory(str(reward_run)), bert.text_logits_NK, []

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
