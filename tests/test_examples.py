"""The examples and the README's first block of code, as a reader runs them."""

import ast
import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import own_classifier
import pytest
from test_documents import write_readme_files

from conftest import REPOSITORY
from eightball_ppo import load_policy
from eightball_ppo.data import Questions
from eightball_ppo.models.loading import text_logits_NK

pytestmark = pytest.mark.usefixtures("no_figures")
MAX_LINES = 6  # from `import` to a better classifier


def first_block() -> str:
    """The first block of code of the README."""
    (language, block), *_ = re.findall(r"^```(\w*)\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.M | re.S)
    assert language == "python"
    return block


@pytest.mark.slow
def test_the_readme_leads_from_import_to_a_better_classifier_in_six_lines(tmp_path: Path) -> None:
    """On a small classifier that has wrong labels from its training."""
    lines = [line for line in first_block().splitlines() if line.strip()]
    assert lines[0].startswith("from eightball_ppo import") and len(lines) <= MAX_LINES
    texts = write_readme_files(tmp_path)
    names: dict[str, Any] = {}
    exec(first_block(), names)
    top = {}
    for directory in ("classifier", "better"):
        model, tokenizer = load_policy(tmp_path / directory)
        scores = names["judge"](texts, list(model.config.id2label.values()))
        logits_NK = text_logits_NK(model, tokenizer, Questions("texts", texts))
        top[directory] = sum(row[label] for row, label in zip(scores, logits_NK.argmax(-1).tolist(), strict=True))
    assert top["better"] > top["classifier"]


@pytest.mark.slow
def test_own_classifier_is_better_on_gold_labels_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_classifier.main(tmp_path / "own")
    before, after = map(int, re.findall(r"(\d+)%", capsys.readouterr().out.splitlines()[-1]))
    assert after > before + 20 and (tmp_path / "own" / "better" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_notebook_runs_in_a_running_loop_and_changes_answers(
    sft_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel compiles each cell with top-level await, and runs it inside its event loop."""
    shutil.copytree(sft_run, tmp_path / "runs" / "sft")
    cells = json.loads((REPOSITORY / "examples" / "quickstart.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}

    async def kernel() -> None:
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), cell["id"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)

    asyncio.run(kernel())
    rains = [answer["label"] for text, answer in zip(names["TEXTS"], names["after"], strict=True) if "rain" in text]
    assert set(rains) <= {"No", "Yes"} and names["after"] != names["before"]
    assert (tmp_path / "better" / "config.json").exists() and "Will I be rich today?" in capsys.readouterr().out
