"""`--log_completions`: the table holds what training sampled, and training is unchanged by it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest import CaptureFixture
from stopping import rows

from conftest import LABELS
from eightball_ppo.config.methods import GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.report import tables
from eightball_ppo.runtime.run import read_metrics

COLUMNS = ["step", "question", "answer", "probability", "score", "kl", "reward"]
LOGGED = {  # the table's columns by the metric that TRL logs of their mean
    PPOConfig: {"objective/scores": "score", "objective/kl": "kl", "objective/rlhf_reward": "reward"},
    RLOOConfig: {"reward": "score", "kl": "kl"},  # TRL logs RLOO's reward before it subtracts KL
    GRPOConfig: {"reward": "reward"},
}


@pytest.mark.slow
@pytest.mark.parametrize("config_class", LOGGED, ids=lambda config_class: config_class.__name__)
def test_completion_table_holds_the_samples_and_training_is_unchanged(
    config_class: type, ruled: dict[str, Any], no_figures: None, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {**ruled, "grader": "rule:No", "total_episodes": 600}
    if config_class is PPOConfig:
        settings |= {"repeats_per_epoch": 2}
    else:
        settings |= {"num_generations": 2, "generation_batch_size": 120, "num_iterations": 1}
    plain = run_method(config_class(output_dir=str(tmp_path / "plain"), **settings))
    capsys.readouterr()
    settings |= {"log_completions": True, "completions_steps": 2}
    logged = run_method(config_class(output_dir=str(tmp_path / "logged"), **settings))
    output = capsys.readouterr()
    assert (plain / "model.safetensors").read_bytes() == (logged / "model.safetensors").read_bytes()
    assert rows(plain) == rows(logged)
    assert not (plain / "completions").exists()

    files = sorted((logged / "completions").iterdir())
    assert [file.name for file in files] == [f"completions_{step:05d}.parquet" for step in (1, 2, 4, 5)]
    metrics = [row for row in read_metrics(logged) if "episode" in row and "train_runtime" not in row]
    for file in files:
        table = pd.read_parquet(file)
        assert list(table) == COLUMNS and len(table) == 120 and table["probability"].between(0, 1).all()
        assert (table["answer"].eq("No") == table["score"].eq(table["score"].max())).all()
        for metric, column in LOGGED[config_class].items():
            assert table[column].mean() == pytest.approx(metrics[table["step"][0] - 1][metric], abs=1e-5)
    assert table["kl"].abs().max() > 1e-3 and set(table["answer"]) <= set(LABELS)
    assert output.err.count("probability") == 4 and "update 5" in output.err and "update" not in output.out


@pytest.mark.parametrize("config_class", LOGGED, ids=lambda config_class: config_class.__name__)
def test_completions_steps_below_one_is_refused(config_class: type) -> None:
    with pytest.raises(InputError, match="--completions_steps 0: must be at least 1"):
        config_class(completions_steps=0)


def test_markup_in_a_question_is_printed_literally(capsys: CaptureFixture[str]) -> None:
    numbers = {"probability": 0.5, "score": 1.0, "kl": 0.1, "reward": 0.9}
    table = [{"step": 1, "question": f"Is [bold]{i}[/nothing] it?", "answer": "[red]", **numbers} for i in range(10)]
    tables.print_completions(pd.DataFrame(table), 3)
    output = capsys.readouterr()
    assert not output.out and "[red]" in output.err
    assert [i for i in range(10) if f"Is [bold]{i}[/nothing] it?" in output.err] == [0, 3, 6]
