"""A PPO that is killed at random moments, also while it writes a checkpoint, ends as if it had never been killed."""

import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import exit_code, fork
from stopping import assert_same

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.run import read_metrics

KILLS = 20
UPDATES = 300


@pytest.mark.long
def test_twenty_kills_change_nothing(ruled: dict[str, Any], tmp_path: Path) -> None:
    batch: dict[str, Any] = {"num_mini_batches": 2, "num_ppo_epochs": 1, "per_device_train_batch_size": 24}
    config = PPOConfig(
        **ruled,
        **batch,
        total_episodes=24 * UPDATES,
        save_steps=1,
        save_total_limit=2,
        output_dir=str(tmp_path / "run"),
    )
    output = tmp_path / "output.txt"
    rarely: dict[str, Any] = {"save_steps": UPDATES, "save_total_limit": 1}  # how often changes no result, either
    straight = replace(config, output_dir=str(tmp_path / "straight"), **rarely)
    assert exit_code(fork(lambda: run_method(straight), output)) == 0, output.read_text()

    unfinished, draw = tmp_path / "run.unfinished", random.Random(0)
    metrics = unfinished / "metrics.jsonl"
    torn = resumed = 0
    newest = []
    for _ in range(KILLS):
        stored = checkpoints_in(unfinished)
        resumed += bool(stored)
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        again = replace(config, resume_from_checkpoint="true" if stored else None)
        job = fork(partial(run_method, again), output)
        until: float = 0
        while not until or len(metrics.read_bytes().splitlines()) < until:
            assert os.waitpid(job, os.WNOHANG) == (0, 0), output.read_text()
            if not until and metrics.exists() and metrics.stat().st_mtime_ns != before:
                until = len(metrics.read_bytes().splitlines()) + draw.randint(0, 12)
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(job, signal.SIGKILL)
        assert exit_code(job) == -signal.SIGKILL, f"it ended before it was killed: raise UPDATES; {output.read_text()}"
        torn += bool([*unfinished.glob(".checkpoint-*"), *unfinished.glob(".dropped-*")])
        newest.append(max((int(path.name.partition("-")[2]) for path in checkpoints_in(unfinished)), default=0))
    last = replace(config, resume_from_checkpoint="true", **rarely)
    assert exit_code(fork(lambda: run_method(last), output)) == 0, output.read_text()
    print(f"\n{KILLS} kills, {resumed} resumptions, {torn} kills while a checkpoint was written or dropped; {newest}")
    assert torn > 0 and resumed >= KILLS - 2
    assert_same(tmp_path / "straight", tmp_path / "run")
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == list(range(1, UPDATES + 1))
