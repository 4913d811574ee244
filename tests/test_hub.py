"""Uploads to the Hub of `hub_server.py`: what is announced, what goes there, and what every failure leaves behind."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub._eval_results import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from conftest import LABELS
from eightball_ppo import ExactConfig, ExactTrainer, InputError
from eightball_ppo.cli import commands
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.hub.cards import eval_results_yaml
from eightball_ppo.labels import LabelSet
from hub_cards import card_errors
from hub_client import Outcome
from hub_server import FINE, READ, WRITE, Hub, running_hub

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The Hub of the client in this process, as the user of a token that may write."""
    flags = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": str(tmp_path / "token")}
    for name, value in {**flags, "ENDPOINT": server.url}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    server.clear()
    return server


@pytest.fixture
def eightball(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one `eightball` command in this process."""

    def run(*argv: str) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["eightball", *argv])
        code = 0
        try:
            commands.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def runs(sft_run: Path, ppo_run: Path, tmp_path: Path) -> Path:
    """runs/sft and runs/ppo in the working directory."""
    for name, run in (("sft", sft_run), ("ppo", ppo_run)):
        shutil.copytree(run, tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_what_is_pushed_is_private_and_nothing_else(eightball: Run, hub: Hub, runs: Path) -> None:
    outcome = eightball("push", "runs/ppo", "--repo_id", "ball/ppo")
    assert outcome.code == 0, outcome.err
    repo = hub.repos["model", "ball/ppo"]
    listed, _, end = outcome.out.rpartition("pushed ")  # before the upload
    assert f"{hub.url}/ball/ppo (model, private if it is new)" in listed and all(name in listed for name in repo.files)
    assert end.strip() == f"runs/ppo -> {hub.url}/ball/ppo"
    assert repo.private and len(repo.commits) == 2
    assert "before_after.parquet" not in repo.files and "model.safetensors" in repo.files  # no questions of the user
    for path, content in repo.files.items():
        assert WRITE.encode() not in content and str(runs.parent).encode() not in content, path
    assert json.loads((runs / "ppo" / "hub.json").read_text())["repo_id"] == "ball/ppo"


@pytest.mark.usefixtures("no_figures")
def test_a_trainer_pushes_its_policy_and_card_but_not_before_it_has_one(hub: Hub, sft_run: Path) -> None:
    judge, args = RuleGrader("No", LabelSet.of(LABELS)), ExactConfig(num_train_epochs=1, disable_tqdm=True)
    trainer = ExactTrainer(str(sft_run), judge, args, ["Will it rain?", "Is it far?"], ["Is it over?"])
    with pytest.raises(InputError, match="push_to_hub: train first"):
        trainer.push_to_hub("ball/api")
    trainer.train()
    with pytest.raises(InputError, match="push_to_hub: to which repository"):
        trainer.push_to_hub()
    trainer.push_to_hub("ball/api")
    repo = hub.repos["model", "ball/api"]
    assert repo.private and {"README.md", "model.safetensors", "config.json"} <= set(repo.files)


def test_second_push_uploads_nothing(eightball: Run, hub: Hub, runs: Path) -> None:
    push = ("push", "runs/sft", "--repo_id", "ball/again")
    assert eightball(*push).code == 0
    assert {"PUT", "POST"} <= {request["method"] for request in hub.log()}
    hub.clear()
    assert eightball(*push).code == 0
    assert not [request for request in hub.log() if request["method"] == "PUT" or "/commit/" in request["path"]]


def test_model_card_holds_the_numbers_of_the_run(eightball: Run, hub: Hub, runs: Path) -> None:
    assert eightball("push", "runs/sft", "--repo_id", "ball/sft").code == 0
    assert eightball("push", "runs/ppo", "--repo_id", "ball/card").code == 0
    results = json.loads((runs / "ppo" / "results.json").read_text())
    content = hub.files("model", "ball/card")["README.md"].decode()
    card: Any = ModelCard(content)
    assert not card_errors(content, "model")
    assert {"trl", "ppo"} <= set(card.data.tags) and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    _, found = model_index_to_eval_results(yaml.safe_load(content.split("---")[1])["model-index"])
    values = {str(result.metric_name).split(",")[0]: result.metric_value for result in found}
    heldout = results["splits"]["heldout"]
    assert values == {name: heldout[name] for name in ("gold_accuracy", "expected_score", "kl", "optimum_fraction")}
    for value in (results["grader"], f"{results['grader_calls']:,}", f"{heldout['entropy']:.4g}", "torch 2.13.0"):
        assert value in card.text


def test_eval_results_are_in_the_hubs_format() -> None:
    results = {"splits": {"heldout": {"gold_accuracy": 0.5, "kl": 0.1}}}
    entries = eval_results_yaml(results, {"dataset_name": "ball/questions"})
    assert entries is not None
    parsed = {(entry.dataset_id, entry.task_id): entry.value for entry in parse_eval_result_entries(entries)}
    assert parsed == {("ball/questions", "gold_accuracy"): 0.5, ("ball/questions", "kl"): 0.1}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("push runs/ppo --repo_id a/b/c", "--repo_id a/b/c: no repository id"),
        ("push runs/ppo", "--repo_id: names no repository"),
        ("push", "push: which run?"),
        ("push runs/none --repo_id ball/x", "runs/none: no such directory"),
        ("push runs --repo_id ball/x", "runs: no finished run, results.json is missing"),
        ("push runs/half --repo_id ball/x", "runs/half: holds no config.json"),
        ("push runs/no_weights --repo_id ball/x", "runs/no_weights: holds no model.safetensors"),
        ("push runs/odd --repo_id ball/x", "runs/odd: no run that can be pushed, its records are damaged"),
        ("push runs/torn --repo_id ball/x", "runs/torn: no run that can be pushed, its records are damaged"),
        ("push runs/ppo runs/half --repo_id ball/x", "push: one run a repository"),
        ("push runs/half --repo_id ball/x --comparison runs", "runs/half: holds no config.json"),
        ("push runs/half --repo_id ball/x --space", "runs/half: no finished run, config.yaml"),
        ("push runs/sft --repo_id ball/x --space", "runs/sft: is a reference"),
        ("sft --output_dir new --push_to_hub", "--push_to_hub: to which repository? pass --hub_model_id USER/NAME"),
        ("sft --output_dir new --push_to_hub --hub_model_id a/b/c", "--hub_model_id a/b/c: no repository id"),
    ],
)
def test_bad_input_is_one_line_and_uploads_nothing(
    argv: str, message: str, eightball: Run, hub: Hub, runs: Path
) -> None:
    (runs / "half").mkdir()
    (runs / "half" / "results.json").write_text('{"method": "ppo"}')
    for name in ("no_weights", "odd"):
        shutil.copytree(runs / "sft", runs / name)
    (runs / "no_weights" / "model.safetensors").unlink()
    (runs / "odd" / "results.json").write_text('{"method": "sft"}')
    (runs / "torn").mkdir()
    for name in ("summary.json", "report.md", "report.html", "results.parquet"):
        (runs / "torn" / name).write_text("{")
    outcome = eightball(*argv.split())
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1, outcome
    assert {request["method"] for request in hub.log()} <= {"GET"}


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("", "ball/x", "no token; make one with the right to write"),
        ("hf_nobody", "ball/x", "the token is not valid"),
        (READ, "ball/x", "the token of ball may only read"),
        (FINE, "ball/elsewhere", "the token may not write there"),
        (WRITE, "stranger/x", "the token may not write there"),
    ],
)
def test_tokens_that_may_not_write_are_refused(
    token: str, repo_id: str, message: str, eightball: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    argvs = [["push", "runs/sft", "--repo_id", repo_id]]
    if token not in (FINE, WRITE):  # these may write somewhere; a stage with others does not begin
        argvs.append(["sft", "--push_to_hub", "--hub_model_id", repo_id, "--output_dir", "runs/new"])
    for argv in argvs:
        outcome = eightball(*argv)
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1, outcome
        assert not token or token not in outcome.err


def test_push_that_broke_uploads_all_or_nothing_and_can_be_repeated(eightball: Run, hub: Hub, runs: Path) -> None:
    before = {path: path.read_bytes() for path in (runs / "sft").iterdir() if path.is_file()}
    push = ("push", "runs/sft", "--repo_id", "ball/cut")
    hub.fault("commit", None, times=9)
    cut = eightball(*push)
    assert cut.code == 3 and cut.err.count("\n") == 1 and f"eightball {shlex.join(push)}" in cut.err, cut
    assert "model.safetensors" not in hub.files("model", "ball/cut")
    hub.clear()
    hub.fault("commit", 409, times=9)
    assert eightball(*push).code == 3
    hub.clear()
    hub.fault("create", 500)  # once, so that the client tries again
    hub.fault("commit", 500)
    assert eightball(*push).code == 0
    assert "model.safetensors" in hub.files("model", "ball/cut")
    assert not [request for request in hub.log() if request["method"] == "PUT"]  # the weights were uploaded before
    assert {path: path.read_bytes() for path in before} == before


def test_stage_keeps_its_run_when_the_push_fails(eightball: Run, hub: Hub, small_data: Path) -> None:
    argv = ["sft", "--num_train_epochs", "1", "--dataset_name", str(small_data), "--disable_tqdm"]
    argv += ["--push_to_hub", "--hub_model_id", "of-a-stage", "--hub_private_repo", "False", "--output_dir"]
    hub.fault("commit", 500, times=9)
    failed = eightball(*argv, "runs/one")
    assert failed.code == 3 and Path("runs/one/model.safetensors").is_file()
    command = re.search(r"eightball (push .*)", failed.err)
    assert command is not None and command[1] == "push runs/one --repo_id of-a-stage --hub_private_repo False"
    hub.clear()
    assert eightball(*command[1].split()).code == 0
    assert not hub.repos["model", "ball/of-a-stage"].private
    assert eightball(*argv, "runs/two").code == 0
    assert len(hub.repos["model", "ball/of-a-stage"].commits) == 3


def test_dry_run_needs_no_hub_and_offline_mode_refuses(
    eightball: Run, hub: Hub, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN")
    dry = eightball("push", "runs/ppo", "--repo_id", "ball/x", "--dry_run")
    assert dry.code == 0 and "dry run: nothing was uploaded" in dry.out and "model.safetensors" in dry.out
    offline = eightball("push", "runs/ppo", "--repo_id", "ball/x")
    assert offline.code == 2 and "HF_HUB_OFFLINE is set" in offline.err
    assert not hub.log() and "HF_TOKEN" not in os.environ
