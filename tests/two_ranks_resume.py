"""Run under torchrun by `test_resume.py`: PPO, SFT, a reward model and a distillation, in the search for its threshold,
on this rank, straight and stopped and gone on with; rank 0 says, as JSON, how each rank ended and whether it found the
same weights and rows."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import encoders
import torch
from accelerate.utils import gather_object
from stopping import rows
from torch import distributed

from conftest import LABELS, small_dataset
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.errors import TrainingInterrupted
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime import launch, signals
from eightball_ppo.runtime.distributed import broadcast_from_main, is_main_process, rank
from eightball_ppo.runtime.logging import silence_libraries
from eightball_ppo.training.checkpoint import CheckpointWriter

if __name__ == "__main__":
    torch.set_num_threads(1)
    silence_libraries()
    launch.init_process_group(120)
    root = broadcast_from_main(lambda: Path(tempfile.mkdtemp()), 120)
    os.chdir(root)
    data = broadcast_from_main(lambda: small_dataset(root / "data"), 120)
    shared: dict[str, Any] = {"dataset_name": str(data), "labels": LABELS, "disable_tqdm": True}
    sft.train(SFTConfig(output_dir="reference", num_train_epochs=1, **shared))
    if is_main_process():
        encoders.save("bert", root / "encoder")
    distributed.barrier()
    fit = {**shared, "learning_rate": 1e-4, "per_device_train_batch_size": 8}
    graded = {**shared, "sft_model_path": "reference", "grader": "rule:Yes", "allow_weak_grader": True}
    batch: dict[str, Any] = {"total_episodes": 6 * 48, "per_device_train_batch_size": 24, "num_mini_batches": 2}

    stages: dict[str, tuple[Callable[[Any], Path], Any, int]] = {  # how, with which options, stopped after which update
        "ppo": (run_method, PPOConfig(**graded, **batch), 3),
        "sft": (sft.train, SFTConfig(num_train_epochs=2, **shared), 13),  # of 20, in the second pass
        "reward": (
            reward_model.train,
            RewardConfig(model_name_or_path="encoder", num_train_epochs=3, **fit),
            15,
        ),  # of 33, in the second
        "distill": (run_method, DistillConfig(num_train_epochs=2, per_device_train_batch_size=8, **graded), 2),
    }
    stdout, sys.stdout = sys.stdout, sys.stderr
    looked, told = CheckpointWriter.due, {}
    for name, (train, config, after) in stages.items():
        straight = train(replace(config, output_dir=f"{name}-straight"))

        def due(self: CheckpointWriter, update: int, after: int = after) -> bool:
            if update == after and rank() == 1:  # one of them is asked, and all of them stop
                os.kill(os.getpid(), signal.SIGTERM)
            return looked(self, update)

        CheckpointWriter.due, code = due, 0  # type: ignore[method-assign]
        try:
            with signals.install_handlers():
                train(replace(config, output_dir=name))
        except TrainingInterrupted as stop:
            code = 128 + stop.signal_number
        CheckpointWriter.due = looked  # type: ignore[method-assign]
        resumed = train(replace(config, output_dir=name, resume_from_checkpoint="true"))
        weights = [(own / "model.safetensors").read_bytes() for own in (straight, resumed)]
        same = weights[0] == weights[1] and rows(straight) == rows(resumed) and len(rows(straight)) > 5
        told[name] = {"stopped": gather_object([code]), "same": gather_object([same])}
    sys.stdout = stdout
    if is_main_process():
        print(json.dumps(told))
    distributed.destroy_process_group()
    sys.exit(0)
