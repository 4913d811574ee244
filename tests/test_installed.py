"""The package as others get it: what sdist and wheel hold, and that the wheel does every job in an empty directory."""

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from conftest import REPOSITORY
from eightball_ppo import __version__
from eightball_ppo.runtime.run import read_results

BUILD = """
from setuptools import build_meta
print(build_meta.build_sdist({out!r}))
print(build_meta.build_wheel({out!r}))
"""
DATA = ["datasets/eightball/rl.jsonl", "datasets/tickets/README.md", "recipes/own_data.yaml", "recipes/real/trec.yaml"]
DATA += ["recipes/accelerate/cpu_2proc.yaml", "graders/prompts/classify.jinja", "demo/assets/page.js"]
pytestmark = pytest.mark.slow


class Built(NamedTuple):
    """The two files, and a directory that holds the wheel as pip installs it."""

    sdist: Path
    wheel: Path
    target: Path


def bash(command: list[str], directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a directory without the repository on its path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("built")
    source, out, target = root / "source", root / "dist", root / "target"
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    for file in filter(lambda name: (REPOSITORY / name).is_file(), files):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((REPOSITORY / file).read_bytes())
    names = bash([sys.executable, "-c", BUILD.format(out=str(out))], source).stdout.split()
    sdist, wheel = (out / next(name for name in names if name.endswith(end)) for end in (".tar.gz", ".whl"))
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    bash([sys.executable, "-m", *install], root)
    return Built(sdist, wheel, target)


def test_wheel_has_its_metadata_and_data_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
        (record,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(record))
    assert (metadata["Name"], metadata["Version"]) == ("eightball-ppo", __version__)
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    assert "Programming Language :: Python :: 3.13" in metadata.get_all("Classifier", [])
    assert {name.split("/")[0].split("-")[0] for name in names} == {"eightball_ppo"}
    assert {f"eightball_ppo/{name}" for name in DATA} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_holds_what_the_wheel_is_built_from_and_no_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"datasets/eightball/rl.jsonl", "recipes/own_data.yaml", "LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith(("tests", "runs", "benchmarks"))]


def test_installed_package_does_every_job_in_an_empty_directory(built: Built, tmp_path: Path) -> None:
    def eightball(*argv: str) -> str:
        code = "from eightball_ppo.cli.commands import main; main()"
        return bash([sys.executable, "-c", code, *argv], tmp_path, PYTHONPATH=str(built.target)).stdout

    where = "import eightball_ppo; print(eightball_ppo.__file__)"
    assert bash([sys.executable, "-c", where], tmp_path, PYTHONPATH=str(built.target)).stdout.startswith(
        str(built.target)
    )
    recipe = tmp_path / "short.yaml"
    recipe.write_text("disable_tqdm: true\nsft: {num_train_epochs: 1}\nreward: {num_train_epochs: 0.1}\n")
    common = ["--config", "short.yaml", "--allow_weak_grader"]
    eightball("ppo", *common, "--total_episodes", "1200")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()) == ["ppo", "reward", "sft"]
    assert yaml.safe_load((tmp_path / "runs" / "ppo" / "config.yaml").read_text())["dataset_name"] == "eightball"
    assert read_results(tmp_path / "runs" / "ppo")["episodes"] == 1200
    eightball("distill", *common, "--num_train_epochs", "1")
    assert "Yes" in eightball("predict", "Will I be rich?")
    few = "--methods sft distill --seeds 0 --kl_coefs 0.1 --num_workers 1 --disable_tqdm"
    eightball("compare", *few.split(), "--allow_weak_grader")
    assert (tmp_path / "runs" / "compare" / "report.html").is_file()
    page = (
        "from eightball_ppo.config.tools import DemoConfig\n"
        "from eightball_ppo.demo.app import build\nbuild(DemoConfig())"
    )
    bash([sys.executable, "-c", page], tmp_path, PYTHONPATH=str(built.target))
