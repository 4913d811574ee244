"""Tables over several runs."""

import json
from pathlib import Path

import pytest
import yaml

from eightball_ppo.config.fields import options_without_effect
from eightball_ppo.config.recipes import sections
from eightball_ppo.errors import InputError
from eightball_ppo.report import summary


def markdown_tables(directories: list[Path]) -> str:
    return summary.markdown_tables(directories, options_without_effect(*sections().values()))


def run(directory: Path, seed: int, accuracy: float, **settings: object) -> Path:
    directory.mkdir()
    record = {"accuracy": accuracy, "ece": None, "ece_before_scaling": 0.5}
    results = {"method": "reward", "seed": seed, "seconds": 1.0, "splits": {"heldout": record}}
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "output_dir": str(directory), **settings}))
    return directory


def test_seeds_are_averaged_and_other_settings_kept_apart(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", 0, 0.5, lr=1), run(tmp_path / "b", 1, 0.7, lr=1), run(tmp_path / "c", 0, 0.9, lr=2)]
    lines = markdown_tables(runs).splitlines()
    assert (
        lines[2]
        == "| reward lr=1 | 0, 1 | 0.600 (0.500 to 0.700) | 0.500 (0.500 to 0.500) | - | 1.000 (1.000 to 1.000) |"
    )
    assert lines[3] == "| reward lr=2 | 0 | 0.900 | 0.500 | - | 1.000 |"


def test_a_seed_twice_and_a_directory_without_a_run_are_refused(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", 0, 0.5), run(tmp_path / "b", 0, 0.7)]
    with pytest.raises(InputError, match="seed 0 of this run occurs twice"):
        markdown_tables(runs)
    with pytest.raises(InputError, match=r"no finished run, results\.json is missing or damaged"):
        markdown_tables([tmp_path])


def test_what_changes_no_result_is_no_setting_and_a_bar_no_cell(tmp_path: Path) -> None:
    runs = [
        run(
            tmp_path / "a",
            0,
            0.5,
            save_steps=10,
            max_concurrency=4,
            ddp_timeout=60,
            log_completions=True,
            labels=["x|y"],
        ),
        run(tmp_path / "b", 1, 0.7, save_steps=None, max_concurrency=8, ddp_timeout=90, labels=["x|y"]),
        run(tmp_path / "c", 0, 0.9, labels=["x"]),
    ]
    lines = markdown_tables(runs).splitlines()
    assert len(lines) == 4 and lines[2].startswith(r"| reward labels=\['x\|y'\] | 0, 1 | 0.600 ")


def test_runs_that_may_have_learned_from_fewer_grades_stand_apart(tmp_path: Path) -> None:
    limits: list[dict[str, float]] = [
        {},
        {"max_grader_calls": 100},
        {"max_cost": 1.0},
        {"grading_timeout": 9.0},
        {"max_grade_failures": 1.0},
    ]
    runs = [run(tmp_path / str(seed), seed, 0.5, **own) for seed, own in enumerate(limits)]
    assert len(markdown_tables(runs).splitlines()) == 2 + len(limits)
