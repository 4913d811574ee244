"""The peers of the benchmarks start equal, have the same task and learn. Nothing here is timed."""

import copy
import importlib
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
from safetensors.torch import save_file
from torch import Tensor

import tiny
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


@pytest.mark.slow
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


def test_optimum_of_the_task_is_closed_form_and_padding_does_not_matter(task: BenchTask) -> None:
    best_NK = task.ref_logits_NK + task.score_NK / BETA
    assert task.optimum_fraction(best_NK, BETA) == pytest.approx(1, abs=1e-6)
    assert task.optimum_fraction(task.ref_logits_NK, BETA) == pytest.approx(0, abs=1e-6)
    assert task.score_NK.std() == pytest.approx(1, abs=1e-5)
    left_NT = torch.stack([ids.roll(int((ids == 0).sum())) for ids in task.ids_NT])
    torch.testing.assert_close(task.grader(left_NT), task.score_NK)  # padded on the left, as a language model's batches
    again = BenchTask(seed=3)
    assert torch.equal(again.ids_NT, task.ids_NT) and torch.equal(again.ref_logits_NK, task.ref_logits_NK)


def test_every_question_comes_equally_often(task: BenchTask) -> None:
    rows = torch.cat(list(task.batches(Settings(batch=300, beta=BETA, total_episodes=1200))))
    assert torch.bincount(rows).tolist() == [6] * len(task)


@pytest.mark.slow
def test_throughput_writes_the_rounds_of_a_peer_process(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "throughput.py"), "--peers", "bare", "--batches", "64"]
    command += ["--rounds", "2", "--seconds-per-round", "0.01", "--output", str(tmp_path / "results.json")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"^\| \(bare loop \(nn.MultiheadAttention\), episodes per .* \| [\d,]+ \|$", done.stdout, re.M)
    rounds = json.loads((tmp_path / "results.json").read_text())["rounds"]
    assert len(rounds) == 2
    assert all(row["peers"]["bare"]["episodes"] >= 64 and row["peers"]["bare"]["processor"] > 0 for row in rounds)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a benchmark, which is run as a file."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


def test_throughput_shows_ratios_within_rounds(module: Callable[[str], Any]) -> None:
    throughput = module("throughput")

    def one(seconds: float) -> dict[str, Any]:
        times = {"processor": seconds, "wall": seconds}
        return {"episodes": 64, "start": times, **times}

    rows = [
        {"batch": 64, "peers": {"ours": one(ours), "sb3": one(theirs)}}
        for ours, theirs in ((1.0, 2.0), (10.0, 13.0), (2.0, 2.0))
    ]
    printed = throughput.table(throughput.summary(rows)).splitlines()
    assert printed[0] == "| ours / | B=64 |"
    assert printed[2] == "| stable-baselines3 | 1.30 (1.00 to 2.00); >= 1.2 |"
    assert printed[3] == "| (ours, episodes per processor second) | 32 |"


def test_slower_means_an_interval_below_one_and_a_mean_below_the_bound(module: Callable[[str], Any]) -> None:
    throughput = module("throughput")
    # logarithms -0.1, 0 and 0.1: mean 0, standard deviation 0.1, and t(0.975, 2) is 4.303
    low, high = throughput.interval([0.9048374, 1.0, 1.1051709])
    assert (low, high) == (pytest.approx(0.78004, abs=1e-4), pytest.approx(1.28199, abs=1e-4))
    for ratios, verdict in (
        ([0.95, 1.0, 1.04], "contains 1"),
        ([0.98, 0.981, 0.982], "lies above 0.97"),
        ([1.1, 1.11, 1.12], "lies above 0.97"),
        ([0.96, 0.961, 0.962], "SLOWER: neither contains 1 nor lies above 0.97"),
    ):
        assert throughput.verdict(64, ratios).endswith(f": {verdict}")


def test_weights_hash_depends_on_names_values_shapes_and_dtypes(tmp_path: Path, module: Callable[[str], Any]) -> None:
    same_weights = module("same_weights")
    weights = {"head": torch.arange(6.0).view(2, 3), "body": torch.ones(2)}

    def hashed(tensors: dict[str, Tensor], **metadata: str) -> str:
        save_file(tensors, tmp_path / "model.safetensors", metadata)
        return same_weights.weights_hash(tmp_path / "model.safetensors")

    original = hashed(weights)
    assert hashed({name: weights[name] for name in reversed(weights)}, format="pt") == original
    others = (
        {**weights, "body": torch.tensor([1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))])},
        {**weights, "head": weights["head"].view(3, 2)},
        {**weights, "body": weights["body"].view(torch.int32)},
        {"head": weights["head"], "bodies": weights["body"]},
    )
    assert original not in [hashed(other) for other in others]


def test_different_weights_are_reported_with_optimum_fractions(module: Callable[[str], Any]) -> None:
    same_weights = module("same_weights")
    before = same_weights.Trained("aa", {"train": 0.5, "heldout": 0.25})
    after = same_weights.Trained("bb", {"train": 0.5, "heldout": 0.375})
    assert same_weights.differences("exact", before, before, None) == []
    assert same_weights.differences("exact", before, after, None) == [
        "exact: the weights differ",
        "  optimum_fraction, train: 0.500000 before, 0.500000 after",
        "  optimum_fraction, heldout: 0.250000 before, 0.375000 after",
    ]
    assert same_weights.differences("ppo-resumed", before, before, after) == [
        "ppo-resumed: not the weights of the run that was not stopped"
    ]


def test_the_winner_has_the_best_accuracy_among_those_near_the_best_optimum_fraction(
    module: Callable[[str], Any],
) -> None:
    trial = module("tune").Trial
    slow, good, best = trial(0.1, 0.9, 0.95, 1.0), trial(0.2, 0.8, 0.975, 1.0), trial(0.4, 0.7, 0.99, 1.0)
    assert module("tune").winner([slow, good, best]) is good
    assert module("tune").winner([slow, best]) is best


def test_dropped_words_are_hidden_in_training_alone_also_in_a_copy(module: Callable[[str], Any]) -> None:
    model, inputs = tiny.classifier(), tiny.tokens(50).rows(torch.arange(50))
    plain_NK = model(**inputs).logits
    module("tune").drop_words(model, 0.5)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**inputs).logits, plain_NK)
    assert not torch.equal(twin.train()(**inputs).logits, plain_NK)
