"""Run under torchrun by `test_ranks.py`: a short PPO on this rank; rank 0 prints what both ranks did, as JSON.

With a directory as argument, PPO of LoRA adapters on the classifier in it; rank 0 saves these to `policy` in there.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

import tiny
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.trl_adapters import batch_sizes

if __name__ == "__main__":
    torch.set_num_threads(1)
    under_lora = [Path(argument) for argument in sys.argv[1:]]
    settings = tiny.config(use_peft=bool(under_lora), repeats_per_epoch=2, num_mini_batches=2, total_episodes=4 * 48)
    table = tiny.tokens(24)
    classifier: Any = tiny.classifier()
    tokenizer: Any = None
    for base in under_lora:
        classifier, tokenizer = load_classifier(str(base), "--sft_model_path")
    models = tiny.trl_models(classifier, table, tiny.scores(24), settings)
    seen: list[int] = []
    generate = models.policy.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Any:
        output = generate(input_ids, **kwargs)
        seen.extend(models.ids.rows(output.sequences).tolist())
        return output

    models.policy.generate = recorded  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as directory:
        trainer = ppo.build_trainer(settings, models, batch_sizes.batch_size(settings, 24, 2), Path(directory), [])
        ppo.run_trainer(trainer, settings)
    require_equal_ranks(trainer)
    mine = {
        "processes": trainer.accelerator.num_processes,
        "policy": [p.double().sum().item() for p in models.policy.parameters()],
        "value": [p.double().sum().item() for p in models.value.parameters()],
        "reference": [p.double().sum().item() for p in models.reference.parameters()],
        "rows": seen,
        "logits": predict_logits_NK(models.policy.by_row.classifier, table).tolist(),
    }
    everybody: list[Any] = [None, None]
    distributed.all_gather_object(everybody, mine)
    if distributed.get_rank() == 0:
        for base in under_lora:
            save_policy(models.policy.by_row.classifier, tokenizer, base / "policy")
        print(json.dumps(everybody))
    distributed.destroy_process_group()
    sys.exit(0)
