"""Run under torchrun by `test_resume.py`: a PPO on this rank, straight and stopped and gone on with; rank 0 says, as
JSON, how each rank ended and whether it found the same weights."""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from stopping import rows
from torch import distributed

from conftest import LABELS, small_dataset
from eightball_ppo import launches, signals
from eightball_ppo.configs import PPOConfig, SFTConfig
from eightball_ppo.errors import Stopped
from eightball_ppo.methods import ppo, sft
from eightball_ppo.methods.checkpoints import Keeper
from eightball_ppo.quiet import quiet_libraries
from eightball_ppo.ranks import from_every_process, from_main_process, is_main_process, rank

if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    launches.meet(120)
    root = from_main_process(lambda: Path(tempfile.mkdtemp()), 120)
    os.chdir(root)
    data = from_main_process(lambda: small_dataset(root / "data"), 120)
    shared: dict[str, Any] = {"dataset_name": str(data), "labels": LABELS, "disable_tqdm": True}
    sft.train(SFTConfig(output_dir="sft", num_train_epochs=1, **shared))
    graded = {**shared, "sft_model_path": "sft", "grader": "rule:Yes", "allow_weak_grader": True}
    batch: dict[str, Any] = {"total_episodes": 6 * 48, "per_device_train_batch_size": 24, "num_mini_batches": 2}

    def train(name: str, **more: Any) -> Path:
        return ppo.train(PPOConfig(output_dir=name, **graded, **batch, **more))

    stdout, sys.stdout = sys.stdout, sys.stderr
    straight = train("straight")
    looked, code = Keeper.due, 0

    def due(self: Keeper, update: int) -> bool:
        if update == 3 and rank() == 1:  # one of them is asked, and all of them stop
            os.kill(os.getpid(), signal.SIGTERM)
        return looked(self, update)

    Keeper.due = due  # type: ignore[method-assign]
    try:
        with signals.handled():
            train("run")
    except Stopped as stop:
        code = 128 + stop.signal_number
    Keeper.due = looked  # type: ignore[method-assign]
    resumed = train("run", resume_from_checkpoint="true")
    weights = [(own / "model.safetensors").read_bytes() for own in (straight, resumed)]
    same = weights[0] == weights[1] and rows(straight) == rows(resumed) and len(rows(straight)) == 6
    codes, everybody = from_every_process(code), from_every_process(same)
    sys.stdout = stdout
    if is_main_process():
        print(json.dumps({"stopped": codes, "same": everybody}))
    distributed.destroy_process_group()
    sys.exit(0)
