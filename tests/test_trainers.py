"""`PPOTrainer` and its siblings: TRL's arguments, our `run_method`, and nothing left on disk that nobody asked for."""

import asyncio
import inspect
import logging
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from pytest import MonkeyPatch
from transformers import TrainerCallback, pipeline

import eightball_ppo
from conftest import LABELS
from eightball_ppo import (
    DistillConfig,
    DistillTrainer,
    ExactTrainer,
    GRPOTrainer,
    InputError,
    PPOConfig,
    PPOTrainer,
    RLOOTrainer,
    load_policy,
)
from eightball_ppo.config.methods import ExactConfig, GRPOConfig, RLOOConfig
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.run import read_metrics, read_results

pytestmark = pytest.mark.usefixtures("no_figures", "scratch")
TEXTS = [f"Will there be {number} of them?" for number in range(12)]
GOLD = Dataset.from_dict({"question": ["Is it over?", "Am I late?", "Do I win?"], "answer": ["No", "No", "Yes"]})
SHORT: dict[Any, dict[str, Any]] = {
    PPOTrainer: {"total_episodes": 48, "num_mini_batches": 2},
    RLOOTrainer: {"total_episodes": 72, "steps_per_generation": 1, "num_iterations": 1},
    GRPOTrainer: {"total_episodes": 72, "steps_per_generation": 1, "num_iterations": 1},
    DistillTrainer: {"num_train_epochs": 1, "threshold": 0.0},
    ExactTrainer: {"num_train_epochs": 3},
}
SHORT_PPO = SHORT[PPOTrainer]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def ours(scratch: Path) -> list[Path]:
    """Our temporary directories; trackers make some of their own."""
    return list(scratch.glob("eightball-*"))


def judge() -> RuleGrader:
    return RuleGrader("No", LabelSet.of(LABELS))


def distilled(sft_run: Path, **options: Any) -> DistillTrainer:
    args = DistillConfig(**SHORT[DistillTrainer], disable_tqdm=True, **options)
    return DistillTrainer(str(sft_run), judge(), args, TEXTS, GOLD)


@pytest.mark.parametrize("trainer_class", SHORT, ids=lambda kind: kind.__name__)
def test_a_trainer_runs_its_method_and_leaves_nothing_on_disk(
    trainer_class: Any, sft_run: Path, tmp_path: Path, scratch: Path
) -> None:
    args = trainer_class.config_class(**SHORT[trainer_class], disable_tqdm=True)
    trainer = trainer_class(str(sft_run), judge(), args, TEXTS, GOLD)
    results = trainer.train()
    assert results is trainer.results and results["method"] == trainer_class.__name__.removesuffix("Trainer").lower()
    assert results["grader"] == judge().fingerprint and results["splits"]["train"]["questions"] == 12
    assert results["verdict"][1].startswith("Not saved yet: trainer.save_model(")
    assert trainer.evaluate()["eval_gold_accuracy"] == results["splits"]["heldout"]["gold_accuracy"]
    del trainer
    assert list(tmp_path.iterdir()) == [scratch] and not ours(scratch)


def test_a_trainer_trains_the_same_weights_as_run_method(sft_run: Path, tmp_path: Path) -> None:
    trainer = distilled(sft_run)
    trainer.train()
    options = {**SHORT[DistillTrainer], "grade_store": "own.sqlite3", "dataset_name": "memory", "labels": LABELS}
    config = DistillConfig(output_dir=str(tmp_path / "run"), sft_model_path=str(sft_run), disable_tqdm=True, **options)
    given = trainer._given
    model, _ = load_policy(run_method(config, judge=judge(), train=given.train, evaluation=given.evaluation))
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_a_run_with_an_output_directory_stays(sft_run: Path, tmp_path: Path, scratch: Path) -> None:
    trainer = distilled(sft_run, output_dir=str(tmp_path / "kept"))
    assert trainer.train() == read_results(tmp_path / "kept")
    assert not ours(scratch) and (tmp_path / "runs" / "grades.sqlite3").exists()
    with pytest.raises(InputError, match=r"kept: holds another run; pass args\.overwrite_output_dir"):
        trainer.train()


def test_a_loaded_model_is_not_changed_and_predicts_like_a_pipeline(sft_run: Path, tmp_path: Path) -> None:
    model, _ = load_policy(sft_run)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = DistillTrainer(model, judge(), DistillConfig(num_train_epochs=40, threshold=0.0), TEXTS, GOLD)
    first = trainer.predict(["Is it over?"])
    trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    after = trainer.predict(["Is it over?"])
    assert after[0]["label"] == "No" and after != first and set(after[0]["probabilities"]) == set(LABELS)
    trainer.save_model(tmp_path / "saved")
    saved, saved_tokenizer = load_policy(tmp_path / "saved")
    (answer,) = pipeline("text-classification", saved, tokenizer=saved_tokenizer)("Is it over?")
    assert answer == {name: pytest.approx(after[0][name], abs=1e-6) for name in ("label", "score")} | {"label": "No"}


def test_evaluate_before_training_measures_the_reference_and_pays_once(sft_run: Path) -> None:
    trainer = distilled(sft_run)
    before = trainer.evaluate()
    results = trainer.train()
    assert before["eval_gold_accuracy"] == results["reference"]["heldout"]["gold_accuracy"]
    assert results["grades"]["calls_made"] == 0


def test_adapters_come_from_a_peft_config(sft_run: Path) -> None:
    peft_config = LoraConfig(r=4, lora_alpha=4, target_modules=["qkv"])
    trainer = PPOTrainer(str(sft_run), judge(), PPOConfig(**SHORT_PPO), TEXTS, GOLD, peft_config=peft_config)
    args: Any = trainer.args
    assert (args.use_peft, args.lora_r, args.lora_target_modules) == (True, 4, ["qkv"])
    trainer.train()
    assert not hasattr(trainer.model, "peft_config")


def test_without_eval_dataset_a_part_is_held_out(sft_run: Path) -> None:
    trainer = ExactTrainer(str(sft_run), judge(), ExactConfig(num_train_epochs=1), [*TEXTS, *GOLD["question"]])
    splits = trainer.train()["splits"]
    assert splits["heldout"]["questions"] > 0
    assert splits["train"]["questions"] + splits["heldout"]["questions"] == 15


def test_a_judge_may_be_a_text_or_the_directory_of_a_reward_model(sft_run: Path) -> None:
    assert PPOTrainer(str(sft_run), "rule:Yes", None, TEXTS, GOLD).args.grader == "rule:Yes"
    args = PPOTrainer(str(sft_run), str(sft_run), None, TEXTS, GOLD).args
    assert (args.grader, args.reward_model_path) == ("bert", str(sft_run))


def test_the_arguments_are_those_of_trl_in_its_order() -> None:
    from trl import RLOOTrainer as TrlTrainer

    trl, ours = (list(inspect.signature(kind).parameters) for kind in (TrlTrainer, PPOTrainer))
    assert ours == trl


def trl_config(module: str, name: str) -> Any:
    return getattr(pytest.importorskip(module), name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("trl.experimental.ppo", "PPOConfig"),
        ("trl", "GRPOConfig"),
        ("trl", "RLOOConfig"),
        ("transformers", "TrainingArguments"),
    ],
)
def test_config_classes_of_trl_are_refused_with_the_name_of_ours(module: str, name: str, sft_run: Path) -> None:
    kind = trl_config(module, name)
    args = kind.__new__(kind)  # their __init__ looks for a device
    with pytest.raises(InputError, match=rf"args: PPOTrainer takes an eightball_ppo\.PPOConfig, not a \w+\.{name};"):
        PPOTrainer(str(sft_run), judge(), args, TEXTS, GOLD)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"reward_processing_classes": object()}, "reward_processing_classes: a judge reads texts"),
        ({"optimizers": (object(), None)}, "optimizers: leave it out"),
        ({"quantization_config": object()}, "quantization_config: a quantized classifier"),
        ({"peft_config": LoraConfig(lora_dropout=0.1)}, "peft_config: lora_dropout=0.1 has no meaning here"),
        ({"peft_config": LoraConfig(target_modules="all-linear")}, "peft_config: target_modules='all-linear'; name"),
        ({"peft_config": object()}, "peft_config: a LoraConfig is needed, not a object"),
        ({"args": GRPOConfig()}, r"PPOTrainer takes an eightball_ppo\.PPOConfig, not a eightball_ppo\.GRPOConfig"),
        ({"args": RLOOConfig}, r"args: PPOTrainer takes an eightball_ppo\.PPOConfig"),
        ({"model": "nowhere/at/all"}, "model nowhere/at/all: no such directory"),
        ({"model": 3}, "model: a name, a directory or a loaded classifier is needed, not a int"),
        ({"model": torch.nn.Linear(2, 2)}, "model: a name, a directory or a loaded classifier"),
        ({"processing_class": object()}, "processing_class: a model that is named brings its own"),
        ({"reward_funcs": "nobody"}, "reward_funcs nobody: unknown grader"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(argument: Any, message: str, sft_run: Path, scratch: Path) -> None:
    given = {"model": str(sft_run), "reward_funcs": judge(), "train_dataset": TEXTS, "eval_dataset": GOLD, **argument}
    with pytest.raises(InputError, match=message) as error:
        PPOTrainer(**given).train()
    assert "\n" not in str(error.value) and not list(scratch.glob("*/run*"))


def test_a_loaded_model_without_a_name_needs_its_tokenizer(sft_run: Path) -> None:
    model, tokenizer = load_policy(sft_run)
    model.config._name_or_path = ""
    with pytest.raises(InputError, match="processing_class: the model was loaded from no directory"):
        ExactTrainer(model, judge(), None, TEXTS, GOLD)
    assert ExactTrainer(model, judge(), None, TEXTS, GOLD, tokenizer).predict(["Is it?"])


def test_messages_name_arguments_instead_of_flags(sft_run: Path) -> None:
    args = PPOConfig(total_episodes=48, per_device_train_batch_size=13, num_mini_batches=2)
    with pytest.raises(InputError, match=r"args\.num_mini_batches") as error:
        PPOTrainer(str(sft_run), judge(), args, TEXTS, GOLD).train()
    assert "--" not in str(error.value)


def test_decisions_are_shown_where_the_program_has_set_up_no_logging(
    sft_run: Path, monkeypatch: MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    rows = [{"body": text} for text in TEXTS]
    ours = logging.getLogger("eightball_ppo")
    level = ours.level
    ExactTrainer(str(sft_run), judge(), ExactConfig(num_train_epochs=1, disable_tqdm=True), rows, ["Is it?"]).train()
    assert "train data: texts from column 'body'" in capsys.readouterr().err
    assert ours.level == level and not ours.handlers


class Press(TrainerCallback):
    """Presses Ctrl-C in the second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("keeps", [False, True])
def test_ctrl_c_is_a_keyboard_interrupt_and_leaves_no_half_written_run(
    keeps: bool, sft_run: Path, tmp_path: Path, scratch: Path
) -> None:
    options: dict[str, Any] = {"output_dir": str(tmp_path / "kept")} if keeps else {}
    args = ExactConfig(num_train_epochs=3, disable_tqdm=True, **options)
    trainer = ExactTrainer(str(sft_run), judge(), args, TEXTS, GOLD, callbacks=[Press()])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.results == {} and not list(tmp_path.glob("kept*")) and not list(scratch.glob("*/run*"))


@pytest.mark.slow
def test_a_training_that_ctrl_c_ended_resumes_to_the_same_weights(sft_run: Path, tmp_path: Path) -> None:
    def trainer(name: str, *callbacks: TrainerCallback) -> ExactTrainer:
        places: dict[str, Any] = {"output_dir": str(tmp_path / name), "grade_store": str(tmp_path / "grades.sqlite3")}
        args = ExactConfig(num_train_epochs=3, save_steps=1, disable_tqdm=True, **places)
        return ExactTrainer(str(sft_run), judge(), args, TEXTS, GOLD, callbacks=callbacks)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer("stopped", Press()).train()
    finally:
        signal.signal(signal.SIGINT, before)
    resumed, straight = trainer("stopped"), trainer("straight")
    resumed.train(resume_from_checkpoint=True)
    straight.train()
    weights = [other.model.state_dict() for other in (resumed, straight)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    steps = [[row["step"] for row in read_metrics(tmp_path / name)] for name in ("stopped", "straight")]
    assert steps[0] == steps[1]


def test_twice_in_a_cell_of_a_notebook_gives_the_same_result_and_leaves_no_handler(sft_run: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()

    async def cell() -> list[dict[str, Any]]:
        return [distilled(sft_run).train()["splits"] for _ in range(2)]

    first, second = asyncio.run(cell())
    assert first == second
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert threads == threading.active_count() and not torch.distributed.is_initialized()


def test_every_name_of_the_api_can_be_imported_and_is_not_shadowed_by_a_subpackage() -> None:
    for name in eightball_ppo._MODULE_OF:
        assert getattr(eightball_ppo, name).__name__ == name
    assert set(eightball_ppo._MODULE_OF) <= set(dir(eightball_ppo))
    with pytest.raises(AttributeError, match="has no attribute 'PPO'"):
        _ = eightball_ppo.PPO
