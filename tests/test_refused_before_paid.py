"""Whatever can be refused is refused before the judge is asked: 0 calls, exit code 2, nothing written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import encoders
import pytest
from pytest import CaptureFixture, MonkeyPatch

from conftest import LABELS
from eightball_ppo.cli import commands
from eightball_ppo.cli.parser import parse
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.registry import METHODS
from eightball_ppo.errors import InputError
from judge_server import JudgeServer

ENCODER = ["--sft_model_path", "{encoder}"]
METHOD_OPTIONS = {
    "ppo": [
        ("--learning_rate 0.012", "--learning_rate 0.012: too high for all weights of a Bert", True),
        ("--use_peft --learning_rate 0.02", "--learning_rate 0.02: too high for adapters on a Bert", True),
        ("--use_peft --lora_target_modules qkw", "--lora_target_modules qkw", False),
        ("--per_device_train_batch_size 500 --repeats_per_epoch 2", "fill at most 120", False),
        ("--per_device_train_batch_size 20 --num_mini_batches 3", "--num_mini_batches 3 does not divide", False),
        ("--report_to wandbb", "--report_to wandbb: unknown tracker", False),
        ("--patience 3", "--patience 3: ", False),
        ("--output_dir {sft}", "is the --sft_model_path", False),
        ("--output_dir {data}", "holds files that are no run", False),
        ("--resume_from_checkpoint true", "holds no checkpoint", False),
        ("--push_to_hub", "--push_to_hub: to which repository?", False),
        ("--push_to_hub --hub_model_id me/ball", "HF_HUB_OFFLINE is set", False),
        ("--baseline exact --grader_call_budget 9", "--baseline exact: needs all grades", False),
        ("--sft_model_path ./nowhere", "no such directory", False),
    ],
    "rloo": [
        ("--learning_rate 0.01", "--learning_rate 0.01: too high for all weights of a Bert", True),
        ("--generation_batch_size 7", "--generation_batch_size 7: must be a multiple", False),
    ],
    "distill": [
        ("--learning_rate 0.02", "--learning_rate 0.02: too high for all weights of a Bert", True),
        ("--grader_call_budget 1", "--grader_call_budget 1: one question takes 2 calls", False),
        ("--grader_call_budget 4", "2 questions cannot be split with --validation_fraction 0.2", False),
    ],
    "exact": [
        ("--use_peft --learning_rate 0.01", "--learning_rate 0.01: too high for adapters on a Bert", True),
        ("--grader_call_budget 1", "--grader_call_budget 1: one question takes 2 calls", False),
    ],
    "compare": [
        ("--methods exact --seeds 0 --method_options exact.learning_rate=0.01", "--learning_rate 0.01: too high", True),
        (
            "--methods ppo --seeds 0 --method_options ppo.per_device_train_batch_size=20 ppo.num_mini_batches=3",
            "does not divide",
            False,
        ),
        ("--use_peft", "pass --method_options ppo.use_peft=true", False),
        ("--methods exact --stop_optimum_fraction 0.9", "unknown option --stop_optimum_fraction", False),
    ],
}
CASES = [(command, *case) for command, cases in METHOD_OPTIONS.items() for case in cases]
MIXED = [("ppo", "", "--mixed_precision bf16", False)]


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.save("bert", tmp_path_factory.mktemp("encoder") / "bert", ("Yes", "No", "Maybe"))


@pytest.mark.parametrize(("command", "options", "message", "on_encoder"), [*CASES, *MIXED])
def test_a_refused_configuration_costs_no_call_and_writes_nothing(
    command: str,
    options: str,
    message: str,
    on_encoder: bool,
    judge: JudgeServer,
    encoder: Path,
    small_data: Path,
    sft_run: Path,
    tmp_path: Path,
    capsys: CaptureFixture[str],
    monkeypatch: MonkeyPatch,
) -> None:
    judge.reset()
    if not options:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    shared: dict[str, Any] = {"dataset_name": small_data, "grader": "api", "grader_model": "judge"}
    shared |= {"grader_base_url": judge.base_url, "sft_model_path": encoder if on_encoder else sft_run}
    words = [word for name, value in shared.items() for word in (f"--{name}", str(value))]
    words += ["--labels", *LABELS, "--disable_tqdm", "--allow_weak_grader"]
    with pytest.raises(SystemExit) as end:
        commands.run(command, [*words, *options.format(data=small_data, sft=sft_run).split()])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and message in err and len(err.splitlines()) == 1 and out == "", err
    assert judge.stats()["requests"] == 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"grades.sqlite3"}
    assert not list(tmp_path.glob("runs/*.unfinished"))


@pytest.mark.parametrize("method", [name for name in METHODS if name in commands.COMMANDS])
def test_options_of_a_method_are_named_with_their_method_where_compare_does_not_know_them(method: str) -> None:
    for option in ("num_samples", "anneal_fraction", "threshold", "cliprange"):
        if option in METHODS[method].config_class.__dataclass_fields__:
            with pytest.raises(InputError, match=rf"pass --method_options \w+\.{option}=0\.5"):
                parse(CompareConfig, [f"--{option}", "0.5"])
