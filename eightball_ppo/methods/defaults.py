"""The defaults that fit the classifier and the number of texts: rates, episodes, epochs, batches."""

import math
from dataclasses import replace
from typing import Any, TypeVar

from transformers import PreTrainedModel

from eightball_ppo.config.defaults import Kind
from eightball_ppo.config.graded import RolloutConfig
from eightball_ppo.config.methods import GroupBaselineConfig, PPOConfig
from eightball_ppo.config.training import CheckpointedConfig
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.frozen import is_frozen
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.trl_adapters.batch_sizes import MAX_DEFAULT_BATCH, MIN_BATCH

C = TypeVar("C")
ENCODER_UPDATES = 10  # of the default episodes; elsewhere a batch is as large as it can be


def resolve_defaults(config: C, classifier: PreTrainedModel, num_texts: int) -> C:
    """`fitting` for a loaded classifier, from which training starts."""
    kind: Kind = "frozen" if is_frozen(classifier) else "encoder"
    return fitting(config, "small" if isinstance(classifier.config, EightBallConfig) else kind, num_texts)


def fitting(config: C, kind: Kind, num_texts: int) -> C:
    """`config` with a number in every option whose default depends on the classifier or on the number of texts.

    Args:
        config: Options of any stage.
        kind: What trains.
        num_texts: Number of training texts.
    """
    if not isinstance(config, CheckpointedConfig):
        return config
    values: dict[str, Any] = {
        name: default.of(kind, getattr(config, "use_peft", False)) for name, default in config.by_classifier.items()
    }
    if isinstance(config, RolloutConfig):
        # The optimum's logits lie score / kl_coef away from the reference's. TRL whitens that scale out of the
        # advantages, so at a high kl_coef the noise of the steps would drown it unless the steps are smaller. How much
        # smaller was measured at 2: for a head half of what the other classifiers need (docs/LOG.md, 2026-11-30).
        beta = 1.0 if config.score_type == "raw" else max(1.0, config.beta)
        values["learning_rate"] /= beta**2 if kind == "frozen" else beta
    for name, amount in config.amounts.items():
        texts = amount.of(kind, num_texts)
        values[name] = texts if name == "total_episodes" else max(1, round(texts / num_texts))
    if kind == "encoder" and getattr(config, "total_episodes", 0) is None:
        values |= _batch(config, values["total_episodes"], num_texts)
    return replace(config, **{name: value for name, value in values.items() if getattr(config, name, 0) is None})


def _batch(config: Any, episodes: int, num_texts: int) -> dict[str, int | None]:
    """A batch of `ENCODER_UPDATES` updates, or nothing where the given options leave no such batch."""
    world_size = num_processes()
    if isinstance(config, GroupBaselineConfig):
        multiple = math.lcm(config.num_generations, config.steps_per_generation * world_size)
        most = min(MAX_DEFAULT_BATCH, num_texts * config.num_generations)
        return {"generation_batch_size": min(episodes // ENCODER_UPDATES, most) // multiple * multiple or None}
    if isinstance(config, PPOConfig) and config.repeats_per_epoch is None:
        multiple = config.num_mini_batches
        batch = min(episodes // ENCODER_UPDATES // world_size, MAX_DEFAULT_BATCH) // multiple * multiple
        return {"per_device_train_batch_size": batch if batch >= MIN_BATCH else None}
    return {}
