"""The API reference is made of the docstrings: every module has a page, and everything public has something to say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "eightball_ppo"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.slow
def test_every_module_has_a_page(tmp_path: Path) -> None:
    (line,) = re.findall(r"BIN\)/(pdoc eightball_ppo .*)", (REPOSITORY / "Makefile").read_text())
    argv = line.replace("build/docs", str(tmp_path)).split()
    done = subprocess.run([sys.executable, "-m", *argv], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr
    pages = {str(page.relative_to(tmp_path).with_suffix("")) for page in tmp_path.rglob("*.html")}
    expected = {str(file.relative_to(REPOSITORY).with_suffix("")).removesuffix("/__init__") for file in MODULES}
    assert expected <= pages
    assert "the optimum" in (tmp_path / "eightball_ppo" / "objective.html").read_text()


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(file: Path) -> None:
    module = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(module), file.name
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{file.name}: {node.name}"
