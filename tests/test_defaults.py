"""Defaults that fit the classifier and the number of texts; early stop and forecast."""

import logging
from pathlib import Path
from typing import Any

import encoders
import pytest
from pytest import LogCaptureFixture, MonkeyPatch
from transformers import TrainerControl, TrainerState

import tiny
from eightball_ppo.comparison.grid import RunSpec, run_config
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.methods import DistillConfig, ExactConfig, GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.config.model import LoraOptions
from eightball_ppo.config.registry import METHODS, commands
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods import run_method
from eightball_ppo.methods.defaults import fitting, resolve_defaults
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.models.trainable import check_rates
from eightball_ppo.runtime.run import read_config, read_metrics, read_results
from eightball_ppo.training import early_stop
from eightball_ppo.training.early_stop import ForecastCallback, PlateauCallback, format_duration

TRAINED = [name for name in commands() if issubclass(METHODS[name].config_class, LoraOptions)]
EMBEDDED = {  # of the embedded 1,200 questions and the small classifier: learning_rate, under LoRA, episodes or epochs
    PPOConfig: (0.024, 0.001, 48_000),
    RLOOConfig: (0.01, 0.001, 48_000),
    GRPOConfig: (0.01, 0.001, 48_000),
    DistillConfig: (0.01, 0.02, 20),
    ExactConfig: (0.01, 0.01, 200),
    SFTConfig: (0.001, 0.001, 3),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_classifier(str(encoders.save("bert", tmp_path_factory.mktemp("encoder"))), "--sft_model_path")[0]


@pytest.mark.parametrize("config_class", EMBEDDED)
def test_the_defaults_of_the_small_classifier_on_the_embedded_data(config_class: Any) -> None:
    rate, lora, amount = EMBEDDED[config_class]
    config = fitting(config_class(), "small", num_texts=1200)
    assert config.learning_rate == rate and fitting(config_class(use_peft=True), "small", 1200).learning_rate == lora
    assert getattr(config, "total_episodes", None) or config.num_train_epochs == amount
    if config_class is PPOConfig:
        assert (config.total_episodes, config.value_learning_rate, config.per_device_train_batch_size) == (
            48000,
            0.0012,
            None,
        )
        rates = [fitting(PPOConfig(kl_coef=beta), "small", 600).learning_rate for beta in (0.05, 1.0, 100.0)]
        assert rates == [0.024, 0.024, 0.00024]
        assert fitting(PPOConfig(kl_coef=2.0), "frozen", 600).learning_rate == 0.01  # 0.04 by the square
    if hasattr(config, "stop_optimum_fraction"):
        assert config.stop_optimum_fraction == 1.0  # off


@pytest.mark.parametrize("use_peft", [False, True])
@pytest.mark.parametrize("config_class", [*(METHODS[name].config_class for name in TRAINED), SFTConfig, RewardConfig])
def test_no_default_is_refused_by_the_guard_of_the_rates(config_class: Any, use_peft: bool, encoder: Any) -> None:
    for classifier in (tiny.classifier(), encoder):
        config = resolve_defaults(config_class(use_peft=use_peft), classifier, 120)
        check_rates(classifier, config)
        assert all(getattr(config, name) is not None for name in config.by_classifier)


def test_episodes_epochs_and_batches_of_an_encoder_follow_the_number_of_texts() -> None:
    counts = {n: fitting(PPOConfig(), "encoder", n).total_episodes for n in (20, 120, 600, 5_000)}
    assert counts == {20: 2_400, 120: 2_400, 600: 12_000, 5_000: 24_000}
    ppo, rloo = fitting(PPOConfig(), "encoder", 120), fitting(RLOOConfig(), "encoder", 120)
    assert (ppo.per_device_train_batch_size, rloo.generation_batch_size) == (240, 240)  # 10 updates
    assert [fitting(ExactConfig(), "encoder", n).num_train_epochs for n in (120, 2_400, 10**6)] == [100, 10, 1]
    assert fitting(DistillConfig(), "encoder", 120).num_train_epochs == 20
    assert fitting(PPOConfig(), "small", 10_000).total_episodes == 400_000


def test_only_a_stage_whose_epochs_follow_the_classifier_or_the_texts_takes_none() -> None:
    assert ExactConfig(num_train_epochs=None).num_train_epochs is None
    assert SFTConfig().num_train_epochs == 3  # over random answers
    assert (
        SFTConfig(dataset_name="tickets").num_train_epochs
        == SFTConfig(model_name_or_path="minilm").num_train_epochs
        == 10
    )
    assert fitting(RewardConfig(), "encoder", 1050).num_train_epochs == 3
    assert fitting(RewardConfig(), "encoder", 100).num_train_epochs == 24  # 75 steps of 32 texts
    with pytest.raises(InputError, match="--weight_decay: a number is needed"):
        RewardConfig(weight_decay=None)


def test_given_options_are_kept() -> None:
    options: dict[str, Any] = {"learning_rate": 1e-4, "value_learning_rate": 2e-4, "total_episodes": 960}
    config = fitting(PPOConfig(**options), "encoder", num_texts=120)
    assert {name: getattr(config, name) for name in options} == options and config.per_device_train_batch_size is None


def test_the_resolved_numbers_stand_in_the_config_and_in_the_results(
    ruled: dict[str, Any], tmp_path: Path, no_figures: None
) -> None:
    run = run_method.run_method(ExactConfig(**ruled, num_train_epochs=2, output_dir=str(tmp_path / "run")))
    for record in (read_config(run), read_results(run)):
        assert (record["learning_rate"], record["num_train_epochs"], record["stop_optimum_fraction"]) == (0.01, 2, 1.0)


# --- early stop


def stopped_at(fractions: list[float], **options: Any) -> tuple[int | None, str | None]:
    plateau = PlateauCallback(fitting(PPOConfig(**options), "small", 600))
    for step, fraction in enumerate(fractions, 1):
        control = TrainerControl()
        state = TrainerState(global_step=step, max_steps=100)
        restored = PlateauCallback(plateau_config := fitting(PPOConfig(**options), "small", 600))
        restored.load_state_dict(plateau.state_dict())  # as a resumed training would
        assert plateau_config.patience == options.get("patience")
        plateau = restored
        plateau.on_log(None, state, control, {"exact/optimum_fraction": fraction})
        if control.should_training_stop:
            return step, plateau.stopped_by
    return None, plateau.stopped_by


def test_training_stops_at_the_fraction_or_after_patience_measurements_without_a_rise() -> None:
    rising = [0.5, 0.9, 0.991, 0.996, 0.999]
    assert stopped_at(rising, stop_optimum_fraction=0.995) == (4, "stop_optimum_fraction")
    assert stopped_at(rising) == (None, None)
    flat = [0.5, 0.6, 0.6, 0.59, 0.61, 0.6, 0.6, 0.6]
    assert stopped_at(flat, patience=2, lr_scheduler_type="constant") == (4, "patience")
    assert stopped_at(flat, patience=3, lr_scheduler_type="constant") == (8, "patience")


def test_patience_is_refused_where_the_rate_decays() -> None:
    with pytest.raises(
        InputError, match=r"--patience 2: .*linear learning rate falls; pass --lr_scheduler_type constant"
    ):
        ExactConfig(patience=2)


@pytest.mark.parametrize(
    ("config_class", "options"),
    [
        (ExactConfig, {"num_train_epochs": 150}),
        (PPOConfig, {"total_episodes": 2_400, "per_device_train_batch_size": 120}),
        (RLOOConfig, {"total_episodes": 3_600, "generation_batch_size": 360}),
    ],
)
def test_a_training_that_reaches_the_fraction_ends_there_and_says_so(
    config_class: Any, options: dict[str, Any], ruled: dict[str, Any], tmp_path: Path, no_figures: None
) -> None:
    config = config_class(**ruled, **options, stop_optimum_fraction=0.1, output_dir=str(tmp_path / "run"))
    run = run_method.run_method(config)
    fractions = [row["exact/optimum_fraction"] for row in read_metrics(run) if "exact/optimum_fraction" in row]
    results = read_results(run)
    assert results["stopped_by"] == "stop_optimum_fraction"
    assert fractions[-1] >= 0.1 and all(fraction < 0.1 for fraction in fractions[:-1] if fraction != fractions[-1])
    if "updates" in results:
        assert results["episodes"] < options["total_episodes"]


def test_no_run_of_a_comparison_stops_early() -> None:
    for method in ("ppo", "rloo", "exact"):
        config = run_config(RunSpec(method, 0, 0.1), CompareConfig())
        assert config.stop_optimum_fraction == 1.0 and config.patience is None  # type: ignore[attr-defined]
        bad = CompareConfig(method_options=[f"{method}.patience=3"])
        with pytest.raises(InputError, match="patience is set by the comparison"):
            run_config(RunSpec(method, 0, 0.1), bad)


# --- forecast


def test_the_forecast_is_said_once_after_the_first_updates(monkeypatch: MonkeyPatch, caplog: LogCaptureFixture) -> None:
    now = 100.0
    monkeypatch.setattr(early_stop.time, "monotonic", lambda: now)
    forecast = ForecastCallback(steps_per_update=4)
    with caplog.at_level(logging.INFO, "eightball_ppo"):
        for step in range(1, 41 * 4):
            forecast.on_step_end(None, TrainerState(global_step=step, max_steps=160), None)
            now += 1.5  # 6 s an update
    assert [record.message for record in caplog.records] == ["38 updates left, about 4 min"]
    assert [format_duration(seconds) for seconds in (4.0, 59.0, 228.0, 9_000.0)] == ["4 s", "59 s", "4 min", "2.5 h"]
