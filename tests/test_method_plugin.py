"""A method of another package: one file and one entry point, and every command knows it."""

import json
import os
from pathlib import Path

import pytest
import yaml

from conftest import LABELS, REPOSITORY
from eightball_ppo.cli.commands import COMMANDS
from eightball_ppo.config.registry import RESERVED
from eightball_ppo.config.registry import commands as registry_commands
from hub_client import eightball, python

METHOD = """
from dataclasses import dataclass

from eightball_ppo.config.fields import option
from eightball_ppo.config.methods import MethodConfig
from eightball_ppo.config.registry import MethodSpec


@dataclass
class TiltConfig(MethodConfig):
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
COMPARE = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
DEMO = """
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo import app, views
from eightball_ppo.demo.session import DemoSession
session = DemoSession(DemoConfig(runs=["runs/tilt"]))
print(views.answers_view(session, session.ask("Will I be rich?")))
app.build(DemoConfig(runs=["runs/tilt"]))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A directory as pip would install the other package: its module, and metadata with the entry point."""
    metadata = tmp_path / "site" / "tilt_method-1.0.dist-info"
    metadata.mkdir(parents=True)
    (tmp_path / "site" / "tilt_method.py").write_text(METHOD)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tilt-method\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[eightball_ppo.methods]\ntilt = tilt_method:TILT\n")
    return tmp_path / "site"


def path_with(*places: Path) -> dict[str, str]:
    """The environment of a process that finds the packages in `places`, and ours."""
    path = [*map(str, places), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture
def recipe(small_data: Path, sft_run: Path, tmp_path: Path) -> None:
    shared: dict[str, object] = {"dataset_name": str(small_data), "sft_model_path": str(sft_run), "grader": "rule:Yes"}
    shared |= {"allow_weak_grader": True, "disable_tqdm": True, "labels": list(LABELS)}
    recipe = {**shared, "tilt": {"tilt": 3.0, "output_dir": "runs/tilt"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.mark.slow
def test_a_plugin_method_trains_and_its_run_is_pushed_and_reported(plugin: Path, recipe: None, tmp_path: Path) -> None:
    push = ["push", "runs/tilt", "--repo_id", "me/tilt", "--dry_run"]
    commands = [["--help"], ["tilt", "--config", "recipe.yaml"], push, ["report", "runs/tilt"]]
    helped, _, pushed, reported = done = eightball(commands, path_with(plugin), tmp_path)
    assert [command.code for command in done] == [0, 0, 0, 0], done
    assert "  tilt       the reference with a number added to one logit" in helped.out
    results = json.loads((tmp_path / "runs/tilt/results.json").read_text())
    assert (results["method"], results["tilt"], results["grader_calls"]) == ("tilt", 3.0, 180)
    assert results["splits"]["train"]["expected_score"] > results["reference"]["train"]["expected_score"]
    card = (tmp_path / "runs/tilt/README.md").read_text()
    assert "tilting: the reference with a number added to one logit." in card and "- trl" not in card
    assert "README.md" in pushed.out and "| tilt | 0 |" in reported.out
    known, unknown = eightball([["report", "runs/tilt"], ["tilt"]], path_with(), tmp_path)  # it is not installed
    assert "| tilt | 0 |" in known.out
    assert unknown.code == 2 and "unknown command 'tilt'" in unknown.err
    assert ">Tilting<" in python(DEMO, path_with(plugin), tmp_path)


@pytest.mark.slow
def test_a_plugin_method_is_compared(plugin: Path, recipe: None, tmp_path: Path) -> None:
    flags = ["--config", "recipe.yaml", "--methods", "distill", "tilt", "--seeds", "0", "1"]
    flags += ["--kl_coefs", "0.1", "--method_options", "tilt.tilt=1.5", "distill.num_train_epochs=1"]
    flags += ["--num_workers", "2", "--output_dir", "runs/compare"]
    out = python(COMPARE, path_with(plugin), tmp_path, str(REPOSITORY / "scripts" / "compare.py"), *flags)
    assert "4 runs" in out and "tilting are equal within 0.02 gold accuracy" in out
    assert "| `tilt` |" in (tmp_path / "runs/compare/report.md").read_text()
    page = tmp_path / "runs/compare/report.html"
    before = page.read_text()
    assert "tilting" in before
    page.unlink()
    assert [command.code for command in eightball([["report", "runs/compare"]], path_with(plugin), tmp_path)] == [0]
    assert page.read_text() == before


BAD = """
from dataclasses import replace

from tilt_method import TILT

EXACT = replace(TILT, config="eightball_ppo.config.methods:ExactConfig")
TWIN = replace(TILT, title="tilting again")
MARKUP = replace(TILT, config="tilt_method:Other", title="<b>bold</b>")
NO_CONFIG = replace(TILT, config="tilt_method:MethodSpec")
FIXED = replace(TILT, fixed={"slant": 1})
"""
REFUSED = {
    "nowhere = nowhere:TILT": "ModuleNotFoundError: No module named 'nowhere'",
    "ppo = tilt_method:TILT": "a method of this name exists",
    "grade = tilt_method:TILT": "is no name of a method: a command has it",
    "../up = tilt_method:TILT": "is no name of a method",
    "other = tilt_method:METHODSPEC": "AttributeError",
    "number = tilt_method:fit": "is no MethodSpec",
    "quits = quits:TILT": "SystemExit: 7",
    "slow_exact = bad:EXACT": "has the options of method exact",
    "twin = bad:TWIN": "has the options of method tilt",
    "markup = bad:MARKUP": "title and description must be one line without < > |",
    "no_config = bad:NO_CONFIG": "tilt_method:MethodSpec is no MethodConfig",
    "fixed = bad:FIXED": "tilt_method:TiltConfig has no option slant",
}


def test_unusable_entry_points_are_named_and_the_others_work(plugin: Path) -> None:
    (plugin / "bad.py").write_text(BAD)
    (plugin / "quits.py").write_text("raise SystemExit(7)\n")
    points = "\n".join(["[eightball_ppo.methods]", "tilt = tilt_method:TILT", *REFUSED])
    (plugin / "tilt_method-1.0.dist-info" / "entry_points.txt").write_text(f"{points}\n")
    code = "import sys; sys.stderr = sys.stdout; from eightball_ppo.cli.commands import COMMANDS; print(*COMMANDS)"
    *warnings, commands = python(code, path_with(plugin), plugin.parent).splitlines()
    assert commands.split() == [*[*COMMANDS][:-6], "tilt", *[*COMMANDS][-6:]]
    assert len(warnings) == len(REFUSED)
    for point, problem in REFUSED.items():
        assert any(line.startswith(f"entry point {point}: {problem}") for line in warnings), (point, warnings)


def test_names_of_commands_are_reserved() -> None:
    assert set(RESERVED) == {*COMMANDS, "completion"} - {*registry_commands()}
