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


def test_repeated_seed_and_directory_without_a_run_are_refused(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", 0, 0.5), run(tmp_path / "b", 0, 0.7)]
    with pytest.raises(InputError, match="seed 0 of this run occurs twice"):
        markdown_tables(runs)
    with pytest.raises(InputError, match=r"no finished run, results\.json is missing or damaged"):
        markdown_tables([tmp_path])


def test_options_without_effect_are_left_out_and_bars_escaped(tmp_path: Path) -> None:
    ignored = ("save_steps", "max_concurrency", "ddp_timeout", "log_completions")
    runs = [
        run(tmp_path / "a", 0, 0.5, labels=["x|y"], **dict.fromkeys(ignored, 10)),
        run(tmp_path / "b", 1, 0.7, labels=["x|y"], **dict.fromkeys(ignored, 20)),
        run(tmp_path / "c", 0, 0.9, labels=["x"]),
    ]
    lines = markdown_tables(runs).splitlines()
    assert len(lines) == 4 and lines[2].startswith(r"| reward labels=\['x\|y'\] | 0, 1 | 0.600 ")


def test_runs_with_another_limit_of_grades_have_their_own_rows(tmp_path: Path) -> None:
    limits = ("max_grader_calls", "max_cost", "grading_timeout", "max_grade_failures")
    runs = [run(tmp_path / limit, seed, 0.5, **{limit: 9.0}) for seed, limit in enumerate(limits)]
    assert len(markdown_tables(runs).splitlines()) == 2 + len(limits)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (
            "results.json",
            '{"method": "reward", "seed": Infinity, "seconds": 1, "splits": {"heldout": {"accuracy": 1}}}',
        ),
        ("results.json", '{"method": "reward", "seed": 0, "seconds": 1, "splits": {"heldout": {"accuracy": []}}}'),
        ("results.json", '{"method": "reward", "seed": 0, "seconds": 1, "splits": {"heldout": {"accuracy": "1"}}}'),
        ("config.yaml", "{seed: 0, a: {1: 2, b: 3}}"),
        ("config.yaml", "{seed: 0, a: 2026-11-30}"),
        ("config.yaml", "{seed: 0, a: &a [*a]}"),
    ],
)
def test_damaged_files_of_a_run_are_one_line(file: str, content: str, tmp_path: Path) -> None:
    (run(tmp_path / "a", 0, 0.5) / file).write_text(content)
    with pytest.raises(InputError, match=f"{file} is damaged, or of another version"):
        markdown_tables([tmp_path / "a"])
