"""Every command and every piece of Python in the documents is executed here, or the document says why not.

`<!-- not run here: REASON -->` in front of a block speaks for all of it, a trailing `# not run here: REASON`
for one command; `# exits with 2` says that a command is meant to fail. The blocks of a document run in order, in one
directory, with a small copy of the data. What takes longer than a test may is made shorter (`SHORTER`).
Flags, names and `make` targets of all commands are checked in any case, also of those in the middle of a sentence.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import EIGHTBALL, REPOSITORY, read_rows, write_rows
from eightball_ppo.cli import commands, parser
from judge_server import JudgeServer

DOCUMENTS = [
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "datasets/eightball/README.md")
]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
FROM_NOTHING = ("README.md", "docs/tutorial.md")  # the others begin where `make run` and distillation have ended

# `make` installs first, so it is not called here; what it calls then is, or CI calls it.
ELSEWHERE = (
    "make run",  # the README's `accelerate launch --config_file accelerate_config.yaml ... scripts/ppo.py`
    "make test",  # CI
    "make quality",  # CI
    "make compare",  # the README's `python scripts/compare.py`
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[demo]'",  # `make setup`, in CI
)
SHORT_PPO = "--disable_tqdm --total_episodes 2400"
SHORTER = {
    **dict.fromkeys(("ppo", "rloo", "grpo"), SHORT_PPO),
    "ppo_loop": "--total_episodes 2400",
    "audit": "--disable_tqdm",
    "exact": "--disable_tqdm --num_train_epochs 20",
    "compare": "--disable_tqdm --num_workers 2 --seeds 0 --kl_coefs 0.1 --method_options ppo.total_episodes=2400 "
    "rloo.total_episodes=2400 grpo.total_episodes=2400 exact.num_train_epochs=20",
}
SERVER = "http://127.0.0.1:8000/v1"  # what the documents call the reader's judge


class Step(NamedTuple):
    """One command, with the exit code it is meant to have, or one block of Python; and why it is not run."""

    where: str
    language: str
    text: str
    code: int
    reason: str | None


def name_of(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


def reason_in(text: str) -> str | None:
    """The reason of a mark; None where there is no mark."""
    found = re.search(r"not run here:?(.*?)(?:-->|$)", text)
    return None if found is None else found[1].strip()


def steps(document: Path) -> list[Step]:
    """The commands of all bash blocks, lines joined over backslashes, and every block of Python."""
    text = document.read_text(encoding="utf-8")
    blocks = re.finditer(r"(?:^(<!--[^\n]*)\n+)?^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = []
    for mark, language, content in (block.groups() for block in blocks):
        reason = reason_in(mark or "")
        where = f"{name_of(document)}: {content[:60]!r}"
        if language == "python":
            found.append(Step(where, language, content, 0, reason))
        if language in ("bash", "sh", "console"):
            for line in re.sub(r"\s*\\\n\s*", " ", content).splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    code = re.search(r"# exits with (\d)", line)
                    exits_with = int(code[1]) if code else 0
                    found.append(Step(where, "bash", line.strip(), exits_with, reason or reason_in(line)))
    return found


def without_comment(command: str) -> str:
    return re.sub(r"\s+#\s.*$", "", command).strip()


def steps_to_run(document: Path) -> list[Step]:
    return [step for step in steps(document) if step.reason is None and without_comment(step.text) not in ELSEWHERE]


def commands_of(document: Path) -> list[str]:
    """All commands of a document: those of its blocks, and those in code spans that show flags or a target."""
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [without_comment(step.text) for step in steps(document)] + [
        span for span in spans if re.search(r"(scripts/\w+\.py|^eightball) .*-|^make \w", span)
    ]


# --- without running them


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_has_a_name_and_flags_that_exist(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    called = r"(?:(scripts)/(\w+)\.py|(?:^|[\s/(;&|])eightball\s+([\w-]+))((?:\"[^\"]*\"|'[^']*'|[^|;&>\"'])*)"
    for command in commands_of(document):
        for scripts, script, name, rest in re.findall(called, command):
            assert not scripts or (REPOSITORY / "scripts" / f"{script}.py").is_file(), command
            name = name or {"push_to_hub": "push"}.get(script, script)
            if name not in commands.COMMANDS:
                assert scripts or name in commands.overview() or name.startswith("-"), f"{command}: no such command"
                continue
            known = commands.COMMANDS[name]
            argv = known.arguments(shlex.split(rest.replace("...", "")))
            at = argv.index("--config") if "--config" in argv else -1
            if at >= 0 and not Path(argv[at + 1]).exists():  # which the document's own blocks write
                argv = argv[:at] + argv[at + 2 :]
            if not {"--help", "-h"} & set(argv):
                parser.parse(known.config_class, argv)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_exists_and_every_command_that_is_not_run_says_why(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    for command in commands_of(document):
        for named in re.findall(r"(?:^|&& |; )make ([\w-]+)", command):
            assert named in targets, f"{name_of(document)}: {command}"
    for step in steps(document):
        assert step.reason is None or len(step.reason) >= 8, f"{step.where}: {step.text}: why is it not run?"


# --- running them


@pytest.fixture(scope="session")
def judge() -> Iterator[str]:
    """The address of a judge that knows all gold labels, instead of the reader's."""
    gold = {row["question"]: row["answer"] for split in ("preferences", "heldout") for row in read_rows(split)}
    with JudgeServer(gold_labels=gold) as server:
        yield server.base_url


def make_workspace(directory: Path) -> Path:
    """A directory that looks like the repository, with fewer training questions; what graders need is complete."""
    data = directory / "datasets" / "eightball"
    data.mkdir(parents=True)
    for split, size in (("sft", 100), ("rl", 120), ("preferences", None), ("heldout", None)):
        write_rows(data / f"{split}.jsonl", read_rows(split)[:size])
    shutil.copy(EIGHTBALL / "README.md", data)
    (data.parent / "tickets").symlink_to(EIGHTBALL.parent / "tickets")
    folders = ("scripts", "examples", "recipes", "benchmarks", "docs", "tests")
    for name in (*folders, "accelerate_config.yaml", "constraints.txt"):
        (directory / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "Makefile", directory)
    (directory / "questions.txt").write_text("Will I be rich?\nIs the house on fire?\n", encoding="utf-8")
    return directory


def write_readme_files(directory: Path) -> list[str]:
    """`tickets.csv` and `classifier`, as the README's first block takes them for granted; returns the texts."""
    from eightball_ppo.config.stages import SFTConfig
    from eightball_ppo.methods import sft

    times = ("today", "soon", "next week", "in May")
    texts = [f"Please {what} {when}." for what in ("call", "answer", "come", "pay", "write", "wait") for when in times]
    labels = ["urgent", "normal"] * (len(texts) // 2)
    with (directory / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    options: dict[str, Any] = {"text_column": "text", "label_column": "label", "dataset_test_split": "0.2"}
    options |= {"dataset_name": str(directory / "tickets.csv"), "num_train_epochs": 2, "disable_tqdm": True}
    sft.train(SFTConfig(output_dir=str(directory / "classifier"), **options))
    return texts


def execute(step: Step, where: Path, judge: str) -> None:
    """Run it as it is, but shorter; anything else than its exit code fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "COLUMNS": "200"}
    environment = {**os.environ, **quiet, "PATH": path}
    environment.pop("HF_TOKEN", None)
    if step.language == "python":
        command = [sys.executable, "-c", step.text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", shorter(step.text).replace(SERVER, judge)]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=1200)
    output = f"{step.where}: {step.text}\nexit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == step.code, output


def shorter(command: str) -> str:
    """The flags of `SHORTER` right behind the command's name, so that those it gives itself win; and fewer of these."""

    def with_flags(found: re.Match[str]) -> str:
        return f"{found[0]} {SHORTER.get(found[1] or found[2], '')}".rstrip()

    command = re.sub(r"(?<![\w/])(?:(?:scripts|examples)/(\w+)\.py|eightball (\w+))(?=\s|$)", with_flags, command)
    command = re.sub(r"(total_episodes[ =])\d+", r"\g<1>2400", command)
    return re.sub(r"(exact\.num_train_epochs=)\d+", r"\g<1>20", command)


@pytest.fixture(scope="session")
def trained(once: Callable[..., Path], judge: str) -> Path:
    """What `make run` and distillation leave behind, but smaller."""

    def make(directory: Path) -> None:
        make_workspace(directory)
        for text in ("python scripts/ppo.py", "python scripts/distill.py"):
            execute(Step("make run", "bash", text, 0, None), directory, judge)

    return once("trained", make)


@pytest.mark.long
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if steps_to_run(document)], ids=name_of)
def test_every_command_of_the_document_runs(
    document: Path, tmp_path: Path, judge: str, request: pytest.FixtureRequest
) -> None:
    where = make_workspace(tmp_path / "here")
    if name_of(document) == "README.md":
        write_readme_files(where)
    if name_of(document) not in FROM_NOTHING:
        shutil.copytree(request.getfixturevalue("trained") / "runs", where / "runs")
    for step in steps_to_run(document):
        execute(step, where, judge)
