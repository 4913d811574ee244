"""The benchmarks' peers are what they say: the same start, the same task, loops that learn. Nothing here is timed."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.peers.registry import PEERS, missing, peer
from benchmarks.peers.task import BenchTask, Settings
from conftest import REPOSITORY

BETA = 0.5
SHORT = {"naive_trl": (Settings(64, BETA, 64, epochs=2), 0.01)}  # as wide as a vocabulary: seconds an update
USUAL = (Settings(200, BETA, 800), 0.15)
STILL = Settings(16, BETA, 16, epochs=1, minibatches=1, learning_rate=1e-12, value_learning_rate=1e-12)


@pytest.fixture(scope="module")
def task() -> BenchTask:
    return BenchTask(seed=3)


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_starts_from_the_reference_and_gets_better(name: str, task: BenchTask) -> None:
    if (reason := missing(name)) is not None:
        pytest.skip(reason)
    settings, bound = SHORT.get(name, USUAL)
    seen: list[tuple[int, Tensor]] = []

    def on_update(episodes: int, logits_NK: Callable[[], Tensor]) -> None:
        seen.append((episodes, logits_NK().clone()))

    peer(name)(task, STILL, on_update).run()
    torch.testing.assert_close(seen[-1][1], task.ref_logits_NK, atol=2e-5, rtol=0)
    assert abs(task.optimum_fraction(seen[-1][1], BETA)) < 1e-4

    seen.clear()
    peer(name)(task, settings, on_update).run()
    assert [episodes for episodes, _ in seen] == [settings.batch * (i + 1) for i in range(settings.updates)]
    assert task.optimum_fraction(seen[-1][1], BETA) > bound


def test_the_task_has_the_optimum_it_says_and_words_that_matter(task: BenchTask) -> None:
    best_NK = task.ref_logits_NK + task.score_NK / BETA
    assert task.optimum_fraction(best_NK, BETA) == pytest.approx(1, abs=1e-6)
    assert task.optimum_fraction(task.ref_logits_NK, BETA) == pytest.approx(0, abs=1e-6)
    assert task.score_NK.std() == pytest.approx(1, abs=1e-5)
    left_NT = torch.stack([ids.roll(int((ids == 0).sum())) for ids in task.ids_NT])
    torch.testing.assert_close(task.grader(left_NT), task.score_NK)  # padded on the left, as a language model's batches
    again = BenchTask(seed=3)
    assert torch.equal(again.ids_NT, task.ids_NT) and torch.equal(again.ref_logits_NK, task.ref_logits_NK)


def test_every_question_stands_as_often_as_the_others(task: BenchTask) -> None:
    rows = torch.cat(list(task.batches(Settings(batch=300, beta=BETA, total_episodes=1200))))
    assert torch.bincount(rows).tolist() == [6] * len(task)


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing("sb3") == "stable_baselines3 is not installed; pip install -e '.[bench]'"
    assert missing("bare") is None


def test_throughput_asks_a_process_and_writes_its_rounds(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "throughput.py"), "--peers", "bare", "--batches", "64"]
    command += ["--rounds", "2", "--seconds-per-round", "0.01", "--output", str(tmp_path / "results.json")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"^\| \(bare loop \(nn.MultiheadAttention\), episodes per .* \| [\d,]+ \|$", done.stdout, re.M)
    rounds = json.loads((tmp_path / "results.json").read_text())["rounds"]
    assert len(rounds) == 2
    assert all(row["peers"]["bare"]["episodes"] >= 64 and row["peers"]["bare"]["processor"] > 0 for row in rounds)


def test_throughput_tells_the_ratio_of_the_same_round_and_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    throughput: Any = importlib.import_module("throughput")

    def one(seconds: float) -> dict[str, Any]:
        own = {"processor": seconds, "wall": seconds}
        return {"episodes": 64, "start": own, **own}

    rows = [
        {"batch": 64, "peers": {"ours": one(ours), "sb3": one(theirs)}}
        for ours, theirs in ((1.0, 2.0), (10.0, 13.0), (2.0, 2.0))
    ]
    printed = throughput.table(throughput.summary(rows)).splitlines()
    assert printed[0] == "| ours / | B=64 |"
    assert printed[2] == "| stable-baselines3 | 1.30 (1.00 to 2.00); >= 1.2 |"
    assert printed[3] == "| (ours, episodes per processor second) | 32 |"
