"""Every command and every piece of Python in the documents is executed here, or the document says why not.

`<!-- not run here: REASON -->` in front of a block speaks for all of it, a trailing `# not run here: REASON`
for one command; `# exits with 2` says that a command is meant to fail. The blocks of a document run in order, in one
directory of their own, with a small copy of the data. What takes longer than a test may is made shorter (`SHORTER`).
Flags, names and `make` targets of all commands are checked in any case, also of those in the middle of a sentence.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import EIGHTBALL, REPOSITORY, read_rows, write_rows
from judge_server import JudgeServer

DOCUMENTS = [
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "datasets/eightball/README.md")
]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
FROM_NOTHING = ("README.md", "docs/tutorial.md")  # the others begin where `make run` and distillation have ended

# `make` installs first, so it is not called here; what it calls then is, or CI calls it.
ELSEWHERE = {
    "make run": "the README's `accelerate launch --config_file accelerate_config.yaml ... scripts/ppo.py`",
    "make test": "CI",
    "make quality": "CI",
    "make compare": "the README's `python scripts/compare.py`",
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[demo]'": "`make setup`, in CI",
}
FEW = "--disable_tqdm --total_episodes 2400"
SHORTER = {
    **dict.fromkeys(("ppo", "rloo", "grpo"), FEW),
    "ppo_loop": "--total_episodes 2400",
    "audit": "--disable_tqdm",
    "exact": "--disable_tqdm --num_train_epochs 20",
    "compare": "--disable_tqdm --num_workers 2 --seeds 0 --kl_coefs 0.1 --method_options ppo.total_episodes=2400 "
    "rloo.total_episodes=2400 grpo.total_episodes=2400 exact.num_train_epochs=20",
}
CHEAP = re.compile(r"eightball (--help|-h|--version|env|completion)\b")
SERVER = "http://127.0.0.1:8000/v1"  # what the documents call the reader's judge


@dataclass
class Block:
    """A fenced block: where it stands, its language, its text, and why it is not run."""

    document: Path
    line: int
    language: str
    text: str
    excuse: str | None


class Step(NamedTuple):
    """One command, with the exit code it is meant to have, or one block of Python."""

    where: str
    language: str
    text: str
    code: int
    excuse: str | None


def name_of(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


def excuse_in(text: str) -> str | None:
    """The reason of a mark; none where there is no mark."""
    found = re.search(r"not run here:?(.*?)(?:-->|$)", text)
    return None if found is None else found[1].strip()


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document."""
    found, inside, before = [], None, ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```") and inside is None:
            marked = before.strip().startswith("<!--")
            inside = Block(document, number, line[3:].strip(), "", excuse_in(before) if marked else None)
        elif line.startswith("```") and inside is not None:
            found.append(inside)
            inside = None
        elif inside is not None:
            inside.text += line + "\n"
        if line.strip():
            before = line
    assert inside is None, f"{document}: a block is not closed"
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a bash block, lines joined over backslashes, or a block of Python as one step."""
    where = f"{name_of(block.document)}:{block.line}"
    if block.language == "python":
        return [Step(where, "python", block.text, 0, block.excuse)]
    if block.language not in ("bash", "sh", "console", "shell"):
        return []
    lines = re.sub(r"\s*\\\n\s*", " ", block.text).splitlines()
    found = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        code = re.search(r"# exits with (\d)", line)
        found.append(Step(where, "bash", line.strip(), int(code[1]) if code else 0, block.excuse or excuse_in(line)))
    return found


def without_comment(command: str) -> str:
    return re.sub(r"\s+#\s.*$", "", command).strip()


def steps_of(document: Path) -> list[Step]:
    """What of a document must be executed here."""
    every = [step for block in blocks(document) for step in steps(block)]
    return [step for step in every if step.excuse is None and without_comment(step.text) not in ELSEWHERE]


def spoken(document: Path) -> list[str]:
    """All commands of a document: those of its blocks, and those in code spans that show flags or a target."""
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [without_comment(step.text) for block in blocks(document) for step in steps(block)] + [
        span for span in spans if re.search(r"(scripts/\w+\.py|^eightball) .*-|^make \w", span)
    ]


# --- what can be said of all of them without running them


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_has_a_name_and_flags_that_exist(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    from eightball_ppo.cli import parser
    from eightball_ppo.cli.commands import COMMANDS

    called = r"(?:(scripts)/(\w+)\.py|(?:^|[\s/(;&|])eightball\s+([\w-]+))((?:\"[^\"]*\"|'[^']*'|[^|;&>\"'])*)"
    for command in spoken(document):
        for scripts, script, name, rest in re.findall(called, command):
            assert not scripts or (REPOSITORY / "scripts" / f"{script}.py").is_file(), command
            name = name or {"push_to_hub": "push"}.get(script, script)
            if name not in COMMANDS:
                assert scripts or name in help_text() or name.startswith("-"), f"{command}: no such command"
                continue
            argv = without_config(COMMANDS[name].arguments(shlex.split(rest.replace("...", ""))))
            if not {"--help", "-h"} & set(argv):
                parser.parse(COMMANDS[name].config_class, argv)


def help_text() -> str:
    command = [str(Path(sys.executable).with_name("eightball")), "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def without_config(argv: list[str]) -> list[str]:
    """Without a `--config` that the document's own blocks write."""
    at = argv.index("--config") if "--config" in argv else -1
    return argv if at < 0 or Path(argv[at + 1]).exists() else argv[:at] + argv[at + 2 :]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    for command in spoken(document):
        for named in re.findall(r"(?:^|&& |; )make ([\w-]+)", command):
            assert named in targets, f"{name_of(document)}: {command}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_mark_has_a_reason_and_every_block_a_language(document: Path) -> None:
    for block in blocks(document):
        assert block.language or block.text.lstrip().startswith(("a question", "accelerate_config.yaml")), block
        for step in steps(block):
            assert step.excuse is None or len(step.excuse) >= 8, f"{step.where}: {step.text}: why is it not run?"


def test_what_runs_elsewhere_is_still_there() -> None:
    """A line of `ELSEWHERE` that no document has is a leftover."""
    every = {without_comment(step.text) for doc in DOCUMENTS for block in blocks(doc) for step in steps(block)}
    assert set(ELSEWHERE) - every <= {"make quality", "make compare"}  # which stand in sentences


# --- running them


@pytest.fixture(scope="session")
def judge() -> Iterator[str]:
    """The address of a judge that knows all wishes, instead of the reader's."""
    wishes = {row["question"]: row["answer"] for split in ("preferences", "heldout") for row in read_rows(split)}
    with JudgeServer(gold_labels=wishes) as server:
        yield server.base_url


def bare(directory: Path) -> Path:
    """A place that looks like the repository, with fewer questions to train on; what graders need is whole."""
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


def execute(step: Step, where: Path, judge: str) -> None:
    """Run it as it stands, but shorter; anything else than its exit code fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "COLUMNS": "200"}
    environment = {**os.environ, **quiet, "PATH": path}
    environment.pop("HF_TOKEN", None)
    if step.language == "python":
        command = [sys.executable, "-c", step.text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", shorter(step.text).replace(SERVER, judge)]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=1200)
    said = f"{step.where}: {step.text}\nexit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == step.code, said


def shorter(command: str) -> str:
    """The flags of `SHORTER` right behind the command's name, so that those it gives itself win; and fewer of these."""

    def with_flags(found: re.Match[str]) -> str:
        return f"{found[0]} {SHORTER.get(found[1] or found[2], '')}".rstrip()

    command = re.sub(r"(?<![\w/])(?:(?:scripts|examples)/(\w+)\.py|eightball (\w+))(?=\s|$)", with_flags, command)
    command = re.sub(r"(total_episodes[ =])\d+", r"\g<1>2400", command)
    return re.sub(r"(exact\.num_train_epochs=)\d+", r"\g<1>20", command)


def is_cheap(step: Step) -> bool:
    return step.language == "bash" and CHEAP.match(step.text) is not None


@pytest.mark.parametrize(
    "step", [pytest.param(s, id=f"{s.where} {s.text[:40]}") for d in DOCUMENTS for s in steps_of(d) if is_cheap(s)]
)
def test_a_cheap_command_runs(step: Step, tmp_path: Path) -> None:
    execute(step, bare(tmp_path / "here"), SERVER)


@pytest.fixture(scope="session")
def trained(once: Callable[..., Path], judge: str) -> Path:
    """What `make run` and distillation leave behind, but smaller."""

    def make(directory: Path) -> None:
        bare(directory)
        for text in ("python scripts/ppo.py", "python scripts/distill.py"):
            execute(Step("the beginning", "bash", text, 0, None), directory, judge)

    return once("trained", make)


@pytest.mark.slow
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if steps_of(document)], ids=name_of)
def test_every_command_of_the_document_runs(
    document: Path, tmp_path: Path, judge: str, request: pytest.FixtureRequest
) -> None:
    where = bare(tmp_path / "here")
    if name_of(document) not in FROM_NOTHING:
        shutil.copytree(request.getfixturevalue("trained") / "runs", where / "runs")
    for step in steps_of(document):
        execute(step, where, judge)


# --- the test itself


def test_marks_comments_and_lines_that_go_on_are_read(tmp_path: Path) -> None:
    file = REPOSITORY / "docs" / "none.md"
    text = (
        "<!-- not run here: it needs a GPU -->\n```bash\nmake run\n```\nwords\n```bash\n# only words\n"
        'eightball predict "Is it #1?"   # says Yes\npython scripts/ppo.py \\\n    --kl_coef -1  # exits with 2\n'
        "make demo # not run here: it serves until it is stopped\n```\n```python\nprint(1)\n```\n```\nart\n```\n"
    )
    (tmp_path / "x.md").write_text(text)
    found = [
        step
        for block in blocks(tmp_path / "x.md")
        for step in steps(Block(file, block.line, block.language, block.text, block.excuse))
    ]
    assert [(step.language, step.code, step.excuse) for step in found] == [
        ("bash", 0, "it needs a GPU"),
        ("bash", 0, None),
        ("bash", 2, None),
        ("bash", 0, "it serves until it is stopped"),
        ("python", 0, None),
    ]
    assert without_comment(found[1].text) == 'eightball predict "Is it #1?"'
    assert without_comment(found[2].text) == "python scripts/ppo.py --kl_coef -1"
    assert excuse_in("make run # not run here") == "" and excuse_in("make run") is None
    assert shorter("accelerate launch scripts/ppo.py --seed 1") == f"accelerate launch scripts/ppo.py {FEW} --seed 1"
    assert shorter("eightball predict x") == "eightball predict x"
