"""What SFT and the reward model share: the end of a run whose result is a classifier that knows no grader."""

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.data import Questions
from eightball_ppo.hub.cards import write_card
from eightball_ppo.models.lora import merged
from eightball_ppo.models.packaged import packaged_base
from eightball_ppo.models.saving import save_adapter
from eightball_ppo.report import verdict
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    record: dict[str, Any],
    heldout: Questions,
    config: SFTConfig | RewardConfig,
    **more: Any,
) -> Path:
    """Writes everything that the directory of such a run holds, prints the metrics and returns the directory.

    Args:
        model: The trained classifier.
        tokenizer: Its tokenizer.
        run: The run.
        record: Metrics on the held-out questions.
        heldout: The held-out questions.
        config: The options of the run.
        more: Further results.
    """
    results: dict[str, Any] = {
        **{"method": run.method, "seed": config.seed, "beta": None, "episodes": 0, "grader_calls": 0},
        **more,
        **{"mixed_precision": mixed_precision(), "seconds": run.seconds, "splits": {"heldout": record}},
        **{"learning_rate": config.learning_rate, "verdict": _verdict(record, heldout, config)},
    }
    if is_main_process():
        model.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        write_card(run.path, results)
    target = run.finish(results)
    if is_main_process():
        print_record(run.method, "heldout", {k: v for k, v in record.items() if not isinstance(v, dict)})
        verdict.print_verdict(results["verdict"])
    return target


def _verdict(record: dict[str, Any], heldout: Questions, config: SFTConfig | RewardConfig) -> list[str]:
    """The three sentences at the end of such a run."""
    data = config.flags()
    command = ["ppo", "--sft_model_path", config.output_dir]
    if isinstance(config, RewardConfig):
        command = ["audit", "--grader", "bert", "--reward_model_path", config.output_dir]
    elif data:
        command += ["--grader", "python:YOUR_FILE.py:YOUR_FUNCTION"]
    what = "Its accuracy is unknown: the held-out texts have no labels"
    if heldout.label_ids is not None:
        accuracy = record["gold_accuracy" if heldout.gold else "label_accuracy"]
        most_common = Counter(heldout.label_ids).most_common(1)[0][1]
        what = verdict.accuracy_sentence(round(accuracy * len(heldout)), len(heldout), most_common, heldout.gold)
    return [
        what,
        verdict.saved_sentence(config.output_dir),
        verdict.next_sentence(*command, *data),
    ]
