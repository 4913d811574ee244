"""Run by `test_ranks.py` on two ranks: a short PPO and a short RLOO. Rank 0 prints what both ranks did, as JSON.

With a directory as argument, PPO of LoRA adapters on the classifier in it, which rank 0 saves to `policy` in there.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import group_jobs
import torch
from torch import Tensor, distributed

import tiny
from eightball_ppo.config.methods import RLOOConfig
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import load_classifier, table_logits_NK
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.trl_adapters import batch_sizes


def train_ppo(base: Path | None, directory: Path) -> dict[str, Any]:
    batch: dict[str, Any] = {"num_generations": 2, "num_mini_batches": 2, "total_episodes": 4 * 48}
    settings = tiny.config(use_peft=base is not None, **batch)
    table = tiny.tokens(24)
    classifier: Any = tiny.classifier()
    tokenizer: Any = None
    if base:
        classifier, tokenizer = load_classifier(str(base), "--sft_model_path")
    models = tiny.trl_models(classifier, table, tiny.scores(24), settings)
    rows: list[int] = []
    generate = models.policy.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Any:
        output = generate(input_ids, **kwargs)
        rows.extend(models.ids.rows(output.sequences).tolist())
        return output

    models.policy.generate = recorded  # type: ignore[method-assign]
    trainer = ppo.build_trainer(settings, models, batch_sizes.batch_size(settings, 24, 2), directory, [])
    ppo.run_trainer(trainer, settings)
    require_equal_ranks(trainer)
    if base and distributed.get_rank() == 0:
        save_policy(models.policy.by_row.classifier, tokenizer, base / "policy")
    networks = {"policy": models.policy, "value": models.value, "reference": models.reference}
    return {
        "processes": trainer.accelerator.num_processes,
        **{name: [p.double().sum().item() for p in network.parameters()] for name, network in networks.items()},
        "rows": rows,
        "logits": table_logits_NK(models.policy.by_row.classifier, table).tolist(),
    }


def train_rloo(directory: Path) -> dict[str, Any]:
    """Three questions, ten answers each, on two ranks: the answers to the second question are split between them."""
    settings = group_jobs.config(RLOOConfig, total_episodes=30 * 40, learning_rate=0.1)
    job = group_jobs.Job(settings, tiny.Tabular(torch.zeros(3, 3)), tiny.row_tokens(3), tiny.scores(3))
    trainer = job.train(directory)
    require_equal_ranks(trainer)
    return {"rloo_logp": job.logp_NK().tolist(), "rloo_calls": job.task.train_scores.calls}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        mine = train_ppo(Path(sys.argv[1]) if sys.argv[1:] else None, Path(directory)) | train_rloo(Path(directory))
    of_ranks: list[Any] = [None, None]
    distributed.all_gather_object(of_ranks, mine)
    if distributed.get_rank() == 0:
        print(json.dumps(of_ranks))
    distributed.destroy_process_group()
