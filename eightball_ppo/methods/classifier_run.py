"""What SFT and the reward model share: the end of a run whose result is a classifier that knows no grader."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.hub.cards import write_card
from eightball_ppo.models.lora import merged
from eightball_ppo.models.packaged import packaged_base
from eightball_ppo.models.saving import save_adapter
from eightball_ppo.report.tables import print_record
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.paths import ADAPTER
from eightball_ppo.runtime.run import Run

# metrics of a record that need a grader
NO_GRADER = dict.fromkeys(("expected_score", "objective", "optimum_objective", "optimum_fraction"))


def merge_adapter(model: PreTrainedModel, config: SFTConfig | RewardConfig, run: Run) -> PreTrainedModel:
    """Saves the LoRA adapter of `model`, if it has one, and returns the model with the adapter merged."""
    if not config.use_peft:
        return model
    if is_main_process():
        save_adapter(model, run.path / ADAPTER, packaged_base(config.model_name_or_path))
    return merged(model)


def finish_classifier(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: Run, record: dict[str, Any], seed: int, **more: Any
) -> Path:
    """Writes everything that the directory of such a run holds, prints the metrics and returns the directory.

    Args:
        model: The trained classifier.
        tokenizer: Its tokenizer.
        run: The run.
        record: Metrics on the held-out questions.
        seed: The seed of the run.
        more: Further results.
    """
    results = {
        **{"method": run.method, "seed": seed, "beta": None, "episodes": 0, "grader_calls": 0},
        **more,
        **{"mixed_precision": mixed_precision(), "seconds": run.seconds, "splits": {"heldout": record}},
    }
    if is_main_process():
        model.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        write_card(run.path, results)
        print_record(run.method, "heldout", record)
    return run.finish(results)
