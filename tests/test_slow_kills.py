"""A PPO that is killed at random moments, also while it writes a checkpoint, ends as if nobody had touched it."""

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import assert_same

from conftest import LABELS
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.progress import checkpoints_in

KILLS = 20
UPDATES = 300


def in_a_process(config: PPOConfig, said: Path) -> int:
    """Start a training in a process of its own, as it would be after its imports; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with said.open("w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        run_method(config)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@pytest.mark.slow
def test_twenty_kills_change_nothing(small_data: Path, sft_run: Path, tmp_path: Path) -> None:
    config = PPOConfig(
        dataset_name=str(small_data),
        labels=LABELS,
        sft_model_path=str(sft_run),
        grader="rule:Yes",
        allow_weak_grader=True,
        disable_tqdm=True,
        num_mini_batches=2,
        num_ppo_epochs=1,
        per_device_train_batch_size=24,
        total_episodes=24 * UPDATES,
        save_steps=1,
        save_total_limit=2,
        output_dir=str(tmp_path / "run"),
    )
    said = tmp_path / "said.txt"
    seldom: dict[str, Any] = {
        "save_steps": UPDATES,
        "save_total_limit": 1,
    }  # when checkpoints are written changes nothing, either
    straight = in_a_process(replace(config, output_dir=str(tmp_path / "straight"), **seldom), said)
    assert os.waitstatus_to_exitcode(os.waitpid(straight, 0)[1]) == 0, said.read_text()

    unfinished, draw = tmp_path / "run.unfinished", random.Random(0)
    rows = unfinished / "metrics.jsonl"
    torn = resumed = 0
    newest = []
    for _ in range(KILLS):
        stored = checkpoints_in(unfinished)
        resumed += bool(stored)
        before = rows.stat().st_mtime_ns if rows.exists() else 0
        job = in_a_process(replace(config, resume_from_checkpoint="true" if stored else None), said)
        after: float = 0
        while not after or len(rows.read_bytes().splitlines()) < after:  # some updates further, and somewhere in one
            assert os.waitpid(job, os.WNOHANG) == (0, 0), said.read_text()
            if not after and rows.exists() and rows.stat().st_mtime_ns != before:
                after = len(rows.read_bytes().splitlines()) + draw.randint(0, 12)
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(job, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        assert ended == -signal.SIGKILL, f"it was done before it could be killed: raise UPDATES; {said.read_text()}"
        torn += bool([*unfinished.glob(".checkpoint-*"), *unfinished.glob(".dropped-*")])
        newest.append(max((int(own.name.partition("-")[2]) for own in checkpoints_in(unfinished)), default=0))
    last = in_a_process(replace(config, resume_from_checkpoint="true", **seldom), said)
    assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0, said.read_text()
    print(f"\n{KILLS} kills, {resumed} resumptions, {torn} kills while a checkpoint was written or dropped; {newest}")
    assert torn > 0 and resumed >= KILLS - 2
    assert_same(tmp_path / "straight", tmp_path / "run")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, UPDATES + 1))
