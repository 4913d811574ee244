"""A finished run says how it was made: its numbers are made again from its files, and its weights from its options."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recompute
from eightball_ppo.cli import commands, parser
from eightball_ppo.cli.commands import COMMANDS
from eightball_ppo.config.recipes import sections
from eightball_ppo.runtime.run import environment, write_config

WEIGHTS = "model.safetensors"


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture
def copied(ppo_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ppo_run, tmp_path / "ppo"))


def test_results_are_recomputed_from_the_files_of_a_run(ppo_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By other formulas, from the saved policy, the reference, the grade store and the data: within 1e-6."""
    assert recompute.main([str(ppo_run)]) == 0
    printed = capsys.readouterr().out
    splits = read(ppo_run / "results.json")["splits"]
    assert all(f"{name} " in printed for split in splits.values() for name in split)


@pytest.mark.parametrize(("part", "split"), [("splits", "train"), ("reference", "heldout")])
def test_changed_number_is_found(copied: Path, part: str, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = read(copied / "results.json")
    results[part][split]["kl"] += 2e-6
    (copied / "results.json").write_text(json.dumps(results))
    assert recompute.main([str(copied)]) == 1
    assert f"{part}, {split}: kl is" in capsys.readouterr().out


@pytest.mark.slow
def test_grades_from_a_table_give_the_same_numbers(ppo_run: Path, tmp_path: Path) -> None:
    made = tmp_path / "grades"
    options = ["--config", str(ppo_run / "config.yaml"), "--output_dir", "from-table"]
    config = parser.parse(COMMANDS["ppo"].config_class, options)
    given = [f"--{name}={getattr(config, name)}" for name in ("dataset_name", "reward_model_path", "grade_store")]
    commands.run("grade", [*given, "--labels", *config.labels, "--output_dir", str(made), "--disable_tqdm"])
    commands.run("ppo", [*options, "--grade_table", str(made / "grades.parquet")])
    assert recompute.main(["from-table"]) == 0
    assert read(Path("from-table/results.json"))["splits"] == read(ppo_run / "results.json")["splits"]


def again(command: str, run: Path, output_dir: Path) -> None:
    """Run `command` with nothing but the options that `run` has saved, and hold the two runs against each other."""
    commands.run(command, ["--config", str(run / "config.yaml"), "--output_dir", str(output_dir)])
    assert (output_dir / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert read(output_dir / "environment.json") == read(run / "environment.json")
    measured = ("splits", "reference")
    assert {name: read(output_dir / "results.json").get(name) for name in measured} == {
        name: read(run / "results.json").get(name) for name in measured
    }
    configs = [(directory / "config.yaml").read_text().splitlines() for directory in (run, output_dir)]
    assert [(a, b) for a, b in zip(*configs, strict=True) if a != b] == [
        (f"output_dir: {run}", f"output_dir: {output_dir}")
    ]


@pytest.mark.slow
def test_config_yaml_of_a_ppo_run_repeats_it_bit_for_bit(ppo_run: Path, tmp_path: Path) -> None:
    made_with = read(ppo_run / "environment.json")
    assert {**environment(), "command": None} == {**made_with, "command": None}
    again("ppo", ppo_run, tmp_path / "again")


@pytest.mark.long
@pytest.mark.parametrize("command", ["sft", "reward", "distill", "rloo", "grpo", "exact", "best_of_n"])
def test_config_yaml_of_every_other_method_repeats_it(command: str, ppo_run: Path, tmp_path: Path) -> None:
    known = {field.name for field in fields(COMMANDS[command].config_class)}
    config = parser.parse(COMMANDS["ppo"].config_class, ["--config", str(ppo_run / "config.yaml")])
    names = {"dataset_name", "sft_model_path", "reward_model_path", "grade_store"} & known
    short = {"num_train_epochs": 2, "total_episodes": 240} if command != "best_of_n" else {}
    given = {name: getattr(config, name) for name in names} | {k: v for k, v in short.items() if k in known}
    flags = [f"--{name}={value}" for name, value in given.items()]
    once = tmp_path / "once"
    commands.run(command, [*flags, "--labels", *config.labels, "--output_dir", str(once), "--disable_tqdm"])
    again(command, once, tmp_path / "again")


@pytest.mark.parametrize("name", sections())
def test_saved_options_of_every_stage_are_read_back(name: str, tmp_path: Path) -> None:
    """Of every stage, with options that are not the defaults."""
    other: dict[str, Any] = {"text_column": "text", "labels": ["a", "no", "1"]}
    other |= {} if name == "compare" else {"overwrite_output_dir": True, "seed": 7, "ddp_timeout": 60}
    config = sections()[name](**other, output_dir="2024-01-02")
    write_config(tmp_path, config)
    assert parser.parse(sections()[name], ["--config", str(tmp_path / "config.yaml")]) == config
