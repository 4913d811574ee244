"""A method of another package: one file and one entry point, and everything that ours can do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import LABELS, REPOSITORY

METHOD = """
from dataclasses import dataclass

from eightball_ppo.config.fields import option
from eightball_ppo.config.methods import GradedConfig
from eightball_ppo.config.registry import MethodSpec


@dataclass
class TiltConfig(GradedConfig):
    \"\"\"Add a number to one logit of the reference.\"\"\"

    output_dir: str = option("runs/tilt", "Directory of the finished run; it must not hold another run.")
    tilt: float = option(2.0, "What is added.")


def fit(task, run):
    import copy

    policy = copy.deepcopy(task.classifier)
    policy.classifier.bias.data[task.labels.names.index("Yes")] += task.config.tilt
    task.train_scores.buy_full_rows()
    run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy)})
    run.results["tilt"] = task.config.tilt
    return policy


TILT = MethodSpec(
    config="tilt_method:TiltConfig",
    fit="tilt_method:fit",
    title="tilting",
    description="the reference with a number added to one logit",
    reads_kl_coef=False,
)
"""
EIGHTBALL = "from eightball_ppo.cli.commands import main; main()"
PAGE = """
import sys
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo import app, views
from eightball_ppo.demo.session import Ball
runs = sys.argv[1:]
ball = Ball(DemoConfig(runs=runs))
print(views.voices_view(ball, ball.answer("Will I be rich?")))
app.build(DemoConfig(runs=runs))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A directory as pip would install the other package: its module, and metadata with the entry point."""
    site = tmp_path / "site"
    metadata = site / "tilt_method-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "tilt_method.py").write_text(METHOD)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tilt-method\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[eightball_ppo.methods]\ntilt = tilt_method:TILT\n")
    return site


def run(site: Path, code: str, *argv: object, fails: int = 0) -> subprocess.CompletedProcess[str]:
    """`python -c code argv` with the other package on its path."""
    path = os.pathsep.join([str(site), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *map(str, argv)]
    done = subprocess.run(
        command, cwd=site.parent, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == fails, done.stderr[-3000:]
    return done


def test_one_file_and_one_entry_point_are_a_method_everywhere(plugin: Path, small_data: Path, sft_run: Path) -> None:
    place = plugin.parent
    shared: dict[str, object] = {"dataset_name": str(small_data), "sft_model_path": str(sft_run), "grader": "rule:Yes"}
    shared |= {"allow_weak_grader": True, "disable_tqdm": True, "labels": list(LABELS)}
    assert "  tilt       the reference with a number added to one logit" in run(plugin, EIGHTBALL, "--help").stdout

    # the command line and a recipe
    (place / "recipe.yaml").write_text(yaml.safe_dump({**shared, "tilt": {"tilt": 3.0, "output_dir": "runs/tilt"}}))
    run(plugin, EIGHTBALL, "tilt", "--config", "recipe.yaml")
    results = json.loads((place / "runs/tilt/results.json").read_text())
    assert (results["method"], results["tilt"], results["grader_calls"]) == ("tilt", 3.0, 180)
    assert results["splits"]["train"]["expected_score"] > results["reference"]["train"]["expected_score"]

    # its card, and what would go to the Hub
    card = (place / "runs/tilt/README.md").read_text()
    assert "Its method is tilting: the reference with a number added to one logit." in card and "- trl" not in card
    assert "README.md" in run(plugin, EIGHTBALL, "push", "runs/tilt", "--repo_id", "me/tilt", "--dry_run").stdout

    # a comparison with its workers, and its report
    flags = ["--config", "recipe.yaml", "--methods", "sft", "distill", "tilt", "--seeds", 0, 1, "--kl_coefs", 0.1, 0.5]
    flags += ["--method_options", "tilt.tilt=1.5", "distill.num_train_epochs=1", "--resamples", 1000]
    out = run(plugin, EIGHTBALL, "compare", *flags, "--num_workers", 2, "--output_dir", "runs/compare").stdout
    assert "12 runs -> " in out and "Tilting is ahead of distillation" in out
    page = (place / "runs/compare/report.html").read_text()
    assert "Tilting" in page and "| `tilt` |" in (place / "runs/compare/report.md").read_text()
    (place / "runs/compare/report.html").unlink()
    run(plugin, EIGHTBALL, "report", "runs/compare")
    assert (place / "runs/compare/report.html").read_text() == page
    assert "| tilt | 0 |" in run(plugin, EIGHTBALL, "report", "runs/tilt").stdout

    # the demo
    assert "Tilting" in run(plugin, PAGE, "runs/tilt").stdout

    # where the package is missing, its runs are still reported, by their name
    without = place / "without"
    without.mkdir()
    assert "| tilt | 0 |" in run(without, EIGHTBALL, "report", "runs/tilt").stdout
    assert "unknown command 'tilt'" in run(without, EIGHTBALL, "tilt", fails=2).stderr


def test_an_entry_point_that_cannot_be_used_is_named_and_the_rest_works(plugin: Path) -> None:
    points = plugin / "tilt_method-1.0.dist-info" / "entry_points.txt"
    points.write_text(
        "[eightball_ppo.methods]\ntilt = nowhere:TILT\nppo = tilt_method:TILT\nother = tilt_method:METHODSPEC\n"
        "number = tilt_method:fit\n"
    )
    done = run(plugin, EIGHTBALL, "--help")
    assert "the objective itself" in done.stdout and "tilt " not in done.stdout
    for told in (
        "tilt = nowhere:TILT: ModuleNotFoundError: No module named 'nowhere'; the method is left out",
        "ppo = tilt_method:TILT: a method of this name exists; the method is left out",
        "other = tilt_method:METHODSPEC: AttributeError",
        "number = tilt_method:fit: is no MethodSpec; the method is left out",
    ):
        assert told in done.stderr
