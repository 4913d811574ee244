"""Run under torchrun by `test_ranks.py`: SFT, reward model, distillation and exact gradient on this rank, too. Rank 0
prints, of each stage that compared the weights of its processes: its name, whether it trained by DDP, in steps, and
only then told weights apart that were made unequal."""

import json
import sys
from pathlib import Path
from typing import Any

import encoders
import torch
from torch import distributed

from eightball_ppo.config.methods import DistillConfig, ExactConfig
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime import launch
from eightball_ppo.training import supervised

if __name__ == "__main__":
    torch.set_num_threads(1)
    data, directory = sys.argv[1], Path(sys.argv[2])
    launch.init_process_group(120)
    rank = distributed.get_rank()
    if rank == 0:
        encoders.save("bert", directory / "encoder")
    distributed.barrier()
    compared: list[tuple[str, bool, bool]] = []
    require = supervised.require_equal_ranks

    def recorded(trainer: Any) -> None:
        require(trainer)
        wrapped = isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
        weight = next(p for p in trainer.model.parameters() if p.requires_grad)
        torch.manual_seed(rank)
        weight.data.add_(1e-6 * torch.randn_like(weight))
        try:
            require(trainer)
        except RuntimeError:
            compared.append((trainer.args.run_name, wrapped, trainer.state.global_step > 1))

    supervised.require_equal_ranks = recorded
    shared: dict[str, Any] = {"dataset_name": data, "num_train_epochs": 1, "disable_tqdm": True}
    graded: dict[str, Any] = {"grader": "rule:Yes", "sft_model_path": str(directory / "sft"), "learning_rate": 1e-3}
    sft.train(SFTConfig(output_dir=str(directory / "sft"), **shared))
    start: dict[str, Any] = {"model_name_or_path": str(directory / "encoder"), "learning_rate": 1e-4}
    reward_model.train(RewardConfig(output_dir=str(directory / "reward"), **start, **shared))
    run_method(DistillConfig(output_dir=str(directory / "distill"), threshold=0.0, **graded, **shared))
    shared["num_train_epochs"] = 2  # its batch is all questions
    run_method(ExactConfig(output_dir=str(directory / "exact"), **graded, **shared))
    if rank == 0:
        print(json.dumps(compared))
    distributed.destroy_process_group()
