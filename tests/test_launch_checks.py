"""What a launcher leaves in the environment: refused, recorded, or accepted."""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from processes import LAUNCHERS
from pytest import CaptureFixture, MonkeyPatch

from conftest import REPOSITORY
from eightball_ppo.cli import parser
from eightball_ppo.config.methods import DistillConfig, GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime import launch
from eightball_ppo.runtime.run import read_results

RECIPES = REPOSITORY / "recipes" / "accelerate"


def test_an_accelerate_launch_of_isolated_processes_is_refused(monkeypatch: MonkeyPatch) -> None:
    for name in (*LAUNCHERS, *launch.SHARDING, "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # of a cluster, say
    launch.check_launch()
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    for world_size in (None, "1"):
        if world_size:
            monkeypatch.setenv("WORLD_SIZE", world_size)
        with pytest.raises(InputError, match="ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2"):
            launch.check_launch()
    monkeypatch.setenv("MASTER_ADDR", "10.77.0.1")  # two machines
    with pytest.raises(InputError, match=r"--machine_rank RANK --main_process_ip 10\.77\.0\.1"):
        launch.check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.check_launch()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun --nproc_per_node 1
    launch.check_launch()


@pytest.mark.parametrize(("variable", "name"), launch.SHARDING.items())
def test_sharding_on_cpu_is_refused(variable: str, name: str, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(InputError, match=f"{name} was asked for, and there is no GPU"):
        launch.check_launch()


@pytest.mark.parametrize("config_class", [PPOConfig, RLOOConfig, GRPOConfig])
def test_sampling_refuses_mixed_precision(config_class: type, ruled: dict[str, Any], monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(InputError, match=r"--mixed_precision bf16: .*--dtype bfloat16"):
        run_method(config_class(**ruled))


def test_mixed_precision_is_recorded(ruled: dict[str, Any], sft_run: Path, monkeypatch: MonkeyPatch) -> None:
    assert read_results(sft_run)["mixed_precision"] == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run = run_method(DistillConfig(**ruled, num_train_epochs=1, threshold=0.0))
    assert read_results(run)["mixed_precision"] == "bf16"


@pytest.mark.parametrize(
    ("name", "kind", "machines"),
    [
        ("multi_gpu", "MULTI_GPU", 1),
        ("cpu_2proc", "MULTI_GPU", 1),
        ("multi_node", "MULTI_GPU", 2),
        ("fsdp2", "FSDP", 1),
        ("deepspeed_zero2", "DEEPSPEED", 1),
    ],
)
def test_launch_file_is_read_by_accelerate_as_it_says(name: str, kind: str, machines: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    assert len(list(RECIPES.glob("*.yaml"))) == 5
    file = str(RECIPES / f"{name}.yaml")
    config = load_config_from_file(file)
    assert (str(config.distributed_type).rpartition(".")[2], config.num_machines) == (kind, machines)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", file, "x.py"]))
    assert arguments.num_processes == 2 and not arguments.use_cpu
    assert arguments.multi_gpu == (kind == "MULTI_GPU")
    assert bool(arguments.use_fsdp) == (kind == "FSDP") and bool(arguments.use_deepspeed) == (kind == "DEEPSPEED")
    if kind == "FSDP":
        assert int(arguments.fsdp_version) == 2
    if kind == "DEEPSPEED":
        assert arguments.zero_stage == 2


@pytest.mark.parametrize(
    ("rank", "relayed", "message"),
    [
        ("0", False, "ppo.py: --kl_coef: no"),
        ("1", False, "ppo.py: rank 1 of 2: --kl_coef: no"),  # perhaps a path that only this machine lacks
        ("1", True, ""),  # the main process has printed it
    ],
)
def test_an_error_is_printed_once_per_launch(
    rank: str, relayed: bool, message: str, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    error = InputError("--kl_coef: no")
    error.relayed = relayed
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["ppo.py"])
    monkeypatch.setattr(parser, "check_launch", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit) as end:
        parser.main(PPOConfig, "nowhere:train", [])
    assert end.value.code == 2 and capsys.readouterr().err.strip() == message
