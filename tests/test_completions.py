"""The completions table: what training sampled, and training that does not notice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eightball_ppo.config.methods import GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.report import tables
from eightball_ppo.runtime.run import read_metrics

TRAIN: dict[type, Callable[[Any], Path]] = {PPOConfig: run_method, RLOOConfig: run_method, GRPOConfig: run_method}
METHODS = pytest.mark.parametrize("config_class", TRAIN, ids=["ppo", "rloo", "grpo"])


def small(config_class: type, small_data: Path, sft_run: Path, directory: Path, **overrides: Any) -> Any:
    """Five updates of 120 answers on the small data; the grader is a rule."""
    settings: dict[str, Any] = {
        "output_dir": str(directory),
        "dataset_name": str(small_data),
        "sft_model_path": str(sft_run),
        "grader": "rule:No",
        "total_episodes": 600,
        "repeats_per_epoch": 2,
        "disable_tqdm": True,
    }
    if config_class is not PPOConfig:
        settings |= {"generation_batch_size": 120, "num_iterations": 1}
    return config_class(**settings, **overrides)


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def logged(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    clocks = ("eps", "runtime", "per_second", "step_time")
    return [{k: v for k, v in row.items() if not any(part in k for part in clocks)} for row in read_metrics(run)]


@METHODS
def test_training_does_not_notice_and_the_table_is_what_it_sampled(
    config_class: type, small_data: Path, sft_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same bits and calls with and without; means of the table are the sampled metrics of its update."""
    train = TRAIN[config_class]
    plain = train(small(config_class, small_data, sft_run, tmp_path / "plain"))
    capsys.readouterr()
    options = {"log_completions": True, "completions_steps": 2}
    watched = train(small(config_class, small_data, sft_run, tmp_path / "watched", **options))
    said = capsys.readouterr()
    assert weights(plain) == weights(watched) and logged(plain) == logged(watched)
    calls = [json.loads((run / "results.json").read_text())["grades"]["calls"] for run in (plain, watched)]
    assert calls[1] <= calls[0]  # the second finds all in the store
    assert not (plain / "completions").exists()

    files = sorted((watched / "completions").iterdir())
    assert [file.name for file in files] == [f"completions_{step:05d}.parquet" for step in (1, 2, 4, 5)]
    questions = {json.loads(line)["question"] for line in (small_data / "rl.jsonl").read_text().splitlines()}
    rows = [row for row in read_metrics(watched) if "episode" in row and "train_runtime" not in row]
    for file in files:
        table = pd.read_parquet(file)
        assert list(table) == ["step", "question", "answer", "probability", "score", "kl", "reward"]
        assert len(table) == 120 and set(table["question"]) <= questions
        assert set(table["answer"]) <= {"Yes", "No", "Maybe"} and table["probability"].between(0, 1).all()
        assert (table["answer"].eq("No") == table["score"].eq(table["score"].max())).all()
        row = rows[table["step"][0] - 1]
        if config_class is GRPOConfig:
            assert table["reward"].mean() == pytest.approx(row["reward"], abs=1e-5)
        if config_class is RLOOConfig:  # TRL logs its reward before KL is taken off
            assert table["score"].mean() == pytest.approx(row["reward"], abs=1e-5)
            assert table["kl"].mean() == pytest.approx(row["kl"], abs=1e-5)
        if config_class is PPOConfig:
            assert table["score"].mean() == pytest.approx(row["objective/scores"], abs=1e-5)
            assert table["kl"].mean() == pytest.approx(row["objective/kl"], abs=1e-5)
            assert table["reward"].mean() == pytest.approx(row["objective/rlhf_reward"], abs=1e-5)
    assert pd.read_parquet(files[-1])["kl"].abs().max() > 1e-3  # it has moved
    assert said.err.count("probability") == 4 and "update 5" in said.err and "update" not in said.out


def test_a_question_in_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"probability": 0.5, "score": 1.0, "kl": 0.1, "reward": 0.9}
    rows = [{"step": 1, "question": f"Is [bold]{i}[/nothing] it?", "answer": "[red]", **numbers} for i in range(10)]
    tables.print_completions(pd.DataFrame(rows), 3)
    said = capsys.readouterr()
    assert not said.out and "[red]" in said.err
    assert [i for i in range(10) if f"Is [bold]{i}[/nothing] it?" in said.err] == [0, 3, 6]


def test_only_the_main_process_writes(
    small_data: Path, sft_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eightball_ppo.training import completions

    monkeypatch.setattr(completions, "is_main_process", lambda: False)
    run = run_method(small(PPOConfig, small_data, sft_run, tmp_path / "run", log_completions=True))
    assert not (run / "completions").exists()


@METHODS
def test_completions_steps_below_one_is_refused(config_class: type) -> None:
    with pytest.raises(InputError, match="--completions_steps 0: at least 1"):
        config_class(completions_steps=0)
