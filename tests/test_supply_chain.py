"""What is installed is what was tested; no data is run as code; no secret and no markup gets into the records."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from html import unescape
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_comparison_report import Page

from conftest import REPOSITORY
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.hub import cards
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.run import CONFIG, ENVIRONMENT, environment, write_config

CODE = [
    file for name in ("eightball_ppo", "scripts", "benchmarks") for file in sorted((REPOSITORY / name).rglob("*.py"))
]
LOCKS = sorted((REPOSITORY / "requirements").glob("*.txt"))
PINS: dict[str, str] = {
    canonicalize_name(name): version.partition(" ;")[0]  # a pin that only the newest Python needs has a marker
    for name, _, version in (line.partition("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines())
    if version
}
ON_TOP_OF = {"demo": ["demo"], "dev": ["demo", "dev"]}  # as `make setup` and `make setup-dev` install them


def locked(*names: str) -> dict[str, str]:
    """The pins of files of requirements/, by name."""
    text = "\n".join((REPOSITORY / "requirements" / f"{name}.txt").read_text() for name in names)
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


# --- what is installed


def test_every_pin_but_torch_has_hashes_and_the_same_version_everywhere() -> None:
    every: dict[str, str] = {}
    for file in LOCKS:
        for entry in re.split(r"\n(?=[a-z])", file.read_text().strip())[1:]:
            head, *hashes = entry.split(" \\\n")
            assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; python_full_version >= '[\d.]+')?", head) and hashes, entry
            assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), entry
        pins = locked(file.stem)
        assert all(every.get(name, version) == version for name, version in pins.items())
        every |= pins
    assert {**every, "torch": PINS["torch"]} == PINS
    assert "torch" not in every


@pytest.mark.parametrize("extra", ON_TOP_OF)
def test_the_locks_hold_whatever_the_extra_needs(extra: str) -> None:
    """From pyproject.toml over the metadata of what is installed here; torch's own parts come with torch."""
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project, build = pyproject["project"], pyproject["build-system"]["requires"]
    pins = locked(*ON_TOP_OF[extra])
    extra_requires = project["optional-dependencies"][extra]
    ahead = [(line, frozenset[str]()) for line in (*project["dependencies"], *build, *extra_requires)]
    done: set[tuple[str, str]] = set()
    while ahead:
        line, extras = ahead.pop()
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": one}) for one in (extras or {""})):
            continue
        if name == "eightball-ppo":
            ahead += [(o, frozenset()) for one in requirement.extras for o in project["optional-dependencies"][one]]
            continue
        if re.fullmatch("triton|(nvidia|cuda)-.*", name) or (name, str(requirement.extras)) in done:
            continue
        done.add((name, str(requirement.extras)))
        assert name == "torch" or name in pins, f"{name} is not in requirements/; run `make lock`"
        assert requirement.specifier.contains(PINS[name], prereleases=True), f"{line}, but {PINS[name]} is pinned"
        needs = frozenset(requirement.extras | {""})
        ahead += [(one, needs) for one in metadata.requires(name) or []]
    assert len(done) > 60


def test_setup_asks_for_the_hashes_and_runs_no_setup_script() -> None:
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    (how,) = [line for line in lines if line.startswith("LOCKED := ")]
    assert "--require-hashes" in how and "--no-deps" in how and "--only-binary :all:" in how
    (ours,) = [line for line in lines if line.startswith("PROJECT := ")]
    assert "--no-build-isolation" in ours and "-c constraints.txt" in ours
    used = {line.split()[-1] for line in lines if line.startswith("\t$(LOCKED)")}
    assert used == {f"requirements/{file.name}" for file in LOCKS}


# --- what is in the code


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "zipfile", "tarfile"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "input", "tempfile.mktemp"}
FORBIDDEN_CALLS |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive"}
FORBIDDEN_CALLS |= {"pd.read_pickle", "csv.writer", "csv.DictWriter"}
FORBIDDEN_METHODS = {"to_pickle", "to_csv", "extractall"}  # a sheet that is opened runs the formulas in a csv


def unsafe_code(source: str) -> list[str]:
    """What in a piece of Python may run or open what stands in data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            found += [f"import {name}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
        end = name.split(".")[-1]
        bad = name in FORBIDDEN_CALLS or end in FORBIDDEN_METHODS
        bad |= options.get("shell") == "True" or options.get("trust_remote_code") == "True" or "allow_pickle" in options
        bad |= name == "torch.load" and options.get("weights_only") != "True"
        bad |= end == "Environment" and options.get("autoescape") != "True"
        if end == "from_pretrained" and name.startswith("Auto"):
            safe = "**safe" in ast.unparse(node)
            bad |= "trust_remote_code" not in options and not safe
            bad |= "Model" in name and not safe and not {"use_safetensors", "gguf_file"} & set(options)
        found += [ast.unparse(node)] if bad else []
    return found


def test_nothing_in_the_code_unpickles_evaluates_or_opens_a_shell() -> None:
    assert len(CODE) > 100
    unsafe = {str(file.relative_to(REPOSITORY)): found for file in CODE if (found := unsafe_code(file.read_text()))}
    (escaped,) = unsafe.pop("eightball_ppo/predict.py")  # its formulas are escaped, see tests/test_predict.py
    assert escaped.startswith("_without_formulas(frame).to_csv(") and not unsafe


# --- what is written


SECRETS = {
    "HF_TOKEN": "hf_secretofthehub",
    "HUGGING_FACE_HUB_TOKEN": "hf_secretofold",
    "WANDB_API_KEY": "5ec2e7" * 7,
    "OPENAI_API_KEY": "sk-secret-of-openai",
    "EIGHTBALL_API_KEY": "sk-secret-of-the-judge",
}


def test_no_key_or_token_is_in_the_records_or_the_card_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ppo_records: dict[str, Any]
) -> None:
    """Whichever option somebody has pasted it into, by mistake."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    everything = " ".join(SECRETS.values())
    monkeypatch.setattr(sys, "argv", ["ppo.py", "--grader_model", everything, "http://me:secretword@judge/v1"])
    config = PPOConfig(
        grader_model=everything, grader_base_url="http://me:secretword@judge/v1", labels=["a", everything]
    )
    write_config(tmp_path, config)
    write_json(tmp_path / ENVIRONMENT, environment())
    cards.write_card(tmp_path, ppo_records)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert set(written) == {CONFIG, ENVIRONMENT, "README.md"}
    for name, text in written.items():
        assert "***" in text, name
        assert not [secret for secret in (*SECRETS.values(), "secretword") if secret in text], name


EVIL = '<script>alert("Q")</script> | a `b` <img src=x onerror=y> [c](javascript:d) @me\n# head'


@pytest.fixture
def ppo_records() -> dict[str, Any]:
    """The results of a run, as far as its card reads them, with hostile words wherever data or a judge have a say."""
    record = {"accuracy": 0.5, "kl": 0.1, "label_histogram": {EVIL: 0.5, "No": 0.5}}
    grades = {
        "cost": None,
        "calls": 3,
        "calls_made": 1,
        "tokens": 7,
        "failed": 0,
        "refused": 1,
        "prompt": f"```\n{EVIL}",
    }
    return {
        **{"method": "ppo", "beta": 0.5, "splits": {"heldout": record}, "reference": {"heldout": record}},
        **{"grader": EVIL, "score_type": EVIL, "grader_calls": 12, "dtype": EVIL},
        "grades": {**grades, "grader_settings": {"grader": "api", "model": f"```\n{EVIL}"}},
    }


def test_a_card_shows_words_of_the_data_as_words(tmp_path: Path, ppo_records: dict[str, Any]) -> None:
    config = PPOConfig(labels=[EVIL, "No"], dataset_name=f"me/{EVIL}", grader=EVIL, grader_model=EVIL)
    write_config(tmp_path, config)
    write_json(tmp_path / ENVIRONMENT, environment())
    card = cards.model_card(tmp_path, ppo_records, repo_id=f"me/{EVIL}")
    body = card.split("---\n", 2)[2]
    assert "<details>" in body  # the card's own, and no other markup
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not {"script", "img", "a", "b"} & names and {"details", "table", "code"} <= names
    titles = [unescape(re.sub("<.*?>", "", title)) for title in re.findall(r"<h1>(.*?)</h1>", html, flags=re.DOTALL)]
    assert titles == [" ".join(EVIL.split("/")[-1].split())]


# --- telemetry


@pytest.mark.slow
def test_nobody_is_told_that_it_runs(sft_run: Path, tmp_path: Path) -> None:
    """With none of the switches that tests set elsewhere: a model of this machine is asked, the page imported."""
    log = tmp_path / "calls"
    argv = ["--question", "Is it?", "--model_name_or_path", str(sft_run)]
    code = (
        "import os, sys\nfrom eightball_ppo.cli import parser\nfrom eightball_ppo.config.stages import PredictConfig\n"
        f"parser.main(PredictConfig, 'eightball_ppo.predict:run', argv={argv!r})\n"
        "from eightball_ppo.demo.app import launch_options\nlaunch_options()\n"
        "print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['GRADIO_ANALYTICS_ENABLED'])\n"
        "from huggingface_hub import constants\nprint(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    switches = ("HF_", "GRADIO_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(switches)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, "EIGHTBALL_NETWORK_LOG": str(log)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["1 False", "True"]
    assert not log.exists(), log.read_text()
