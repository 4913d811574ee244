"""Flags, YAML, and what is refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from trl.experimental.ppo import PPOConfig as TRLConfig

from eightball_ppo.cli.parser import parse
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.trl_unsupported import TRL_OPTIONS
from eightball_ppo.errors import InputError


def test_flags_beat_yaml_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("kl_coef: 0.5\nlearning_rate: 1e-3\nlabels: [a, b]\nmax_grad_norm: 2\nnum_mini_batches: 16.0\n")
    config = parse(PPOConfig, ["--config", str(file), "--kl_coef=0.7", "--per_device_train_batch_size", "64"])
    assert (config.kl_coef, config.learning_rate, config.labels) == (0.7, 1e-3, ["a", "b"])
    assert (config.per_device_train_batch_size, config.max_grad_norm, config.cliprange) == (64, 2.0, None)
    assert isinstance(config.num_mini_batches, int) and config.num_mini_batches == 16
    assert parse(PPOConfig, []) == PPOConfig()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kl_coef", "much"], "argument --kl_coef/--kl-coef: invalid float value: 'much'"),
        (["--score_type", "vibes"], "invalid choice: 'vibes'"),
        (["--output_dir", ""], "--output_dir: empty"),
        (["--kl_coe", "1"], "unknown option --kl_coe 1; did you mean --kl_coef?"),  # half a name is none
        (["--num_ppo_epochs", "0"], "--num_ppo_epochs 0: must be at least 1"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "invalid choice"),
        (["--kl_estimator", "k3"], "--kl_estimator k3: refused (only k1): k3 in the reward has the wrong gradient"),
        (["--gradient_accumulation_steps", "4"], "refused (only 1)"),
        (["--temperature", "0.7"], "refused (only 1.0)"),
        (["--bf16"], "--bf16: refused (only False): TRL 1.12's PPOTrainer accepts this and ignores it"),
        (["--max_steps", "10"], "use --total_episodes"),
        (["--config"], "--config: names no file"),
    ],
)
def test_bad_flags_are_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse(PPOConfig, argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kl_coef: [1]", "recipe.yaml: kl_coef [1]: Input should be a valid number"),
        ("temperature: 0.7", "recipe.yaml: temperature: not an option here: another value trains the tempered policy"),
        ("kl_coef: true", "recipe.yaml: kl_coef True: this option takes no yes or no"),
        ("num_mini_batches: 8.5", "recipe.yaml: num_mini_batches 8.5: Input should be a valid integer"),
        ("labels: 7", "recipe.yaml: labels 7: Input should be a valid list"),
    ],
)
def test_bad_yaml_names_file_and_key(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        parse(PPOConfig, ["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    ("value", "means"),
    [(True, "true"), (False, None), (Path("runs/a"), "runs/a"), ("TRUE", "true"), (None, None), ("runs/b", "runs/b")],
)
def test_resume_from_checkpoint_takes_booleans_and_directories(tmp_path: Path, value: Any, means: str | None) -> None:
    assert PPOConfig(resume_from_checkpoint=value).resume_from_checkpoint == means
    (tmp_path / "recipe.yaml").write_text(f"resume_from_checkpoint: {'null' if value is None else value}")
    assert parse(PPOConfig, ["--config", str(tmp_path / "recipe.yaml")]).resume_from_checkpoint == means


def test_trls_options_are_fields_or_accounted_for() -> None:
    """Every option that TRL's own PPOConfig adds to TrainingArguments works here, or is refused with a reason."""
    ours = {field.name for field in dataclasses.fields(PPOConfig)}
    computed = {"world_size", "num_total_batches", "micro_batch_size", "local_batch_size", "batch_size"}
    computed |= {"local_mini_batch_size", "mini_batch_size"}
    for_later = {"dataset_num_proc", "ds3_gather_for_generation"}
    assert set(TRLConfig.__annotations__) - ours - set(TRL_OPTIONS) == computed | for_later
    assert not ours & set(TRL_OPTIONS)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, (v, _) in TRL_OPTIONS.items() if v is not None])
def test_default_value_of_a_refused_option_is_accepted(name: str, value: str) -> None:
    assert parse(PPOConfig, [f"--{name}", value]) == PPOConfig()
