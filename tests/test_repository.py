"""The shape of the repository: sizes of files and functions, what is packaged, and that documents name what exists."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_documents import DOCUMENTS, name_of

from benchmarks.lines import code_lines
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "eightball_ppo"
SOURCES = [
    file for folder in ("eightball_ppo", "scripts", "examples", "tests") for file in (REPOSITORY / folder).rglob("*.py")
]


def test_no_file_over_300_lines_and_no_function_over_60_of_code() -> None:
    for file in SOURCES:
        source = file.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= (150 if file.name == "ppo_loop.py" else 300), file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                inside = code_lines(source).intersection(range(node.lineno, (node.end_lineno or 0) + 1))
                assert len(inside) <= 60, f"{file.name}:{node.name}"


@pytest.mark.slow
def test_every_module_has_a_page_in_the_api_reference(tmp_path: Path) -> None:
    (line,) = re.findall(r"BIN\)/(pdoc eightball_ppo .*)", (REPOSITORY / "Makefile").read_text())
    argv = line.replace("build/docs", str(tmp_path)).split()
    done = subprocess.run([sys.executable, "-m", *argv], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr
    for file in PACKAGE.rglob("*.py"):
        page = str(file.relative_to(REPOSITORY).with_suffix("")).removesuffix("/__init__")
        assert (tmp_path / f"{page}.html").exists(), page


def test_every_package_is_listed_and_datasets_is_no_package() -> None:
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(file.parent.relative_to(REPOSITORY).parts) for file in PACKAGE.rglob("__init__.py")}
    assert set(listed) == found | {"eightball_ppo.datasets", "eightball_ppo.recipes"}
    assert not list((REPOSITORY / "datasets").rglob("*.py"))


def test_import_is_fast_and_opens_no_socket() -> None:
    code = (
        "import socket, sys\ndef no(*_): raise SystemExit('a socket is opened')\nsocket.socket.connect = no\n"
        "import eightball_ppo\nprint(sorted({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documents_name_only_what_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    folders = "scripts|examples|eightball_ppo|datasets|tests|docs|recipes|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*\w)", text):
        assert (REPOSITORY / path).exists(), f"{document.name} names {path}"
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {name}(" in (REPOSITORY / file).read_text(), f"{document.name} names {file}::{name}"
