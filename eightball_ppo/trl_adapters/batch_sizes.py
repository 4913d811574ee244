"""How many answers an update of PPO has, and how often a question stands in one pass over the data."""

import math

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import InputError

LARGEST_DEFAULT_BATCH = 1200
MEASURING_SHARE = 0.05  # of the training's forward and backward passes may be spent on the exact metrics
SMALLEST_BATCH = 8  # whitening divides by the batch's standard deviation; a batch of 1 turns the weights into NaN


def generations(config: PPOConfig, num_questions: int, world_size: int) -> int:
    """How often a question stands in one pass: as configured; else twice, and few questions so often that a pass fills
    the batch, the default one or another. Minibatches of a few episodes do not learn."""
    if config.repeats_per_epoch is not None:
        return config.repeats_per_epoch
    batch = min(LARGEST_DEFAULT_BATCH, config.total_episodes)
    if config.per_device_train_batch_size is not None:
        batch = config.per_device_train_batch_size * world_size
    return max(2, -(-batch // num_questions))


def batch_size(config: PPOConfig, num_questions: int, world_size: int) -> int:
    """Episodes per update and process: the configured number, or the largest sensible one.

    Raises:
        InputError: the questions cannot fill one batch (TRL would wait for ever), the minibatches do not divide it, or
            it is too small to be whitened.
    """
    repeats = generations(config, num_questions, world_size)
    available = num_questions * repeats // world_size
    batch = config.per_device_train_batch_size
    if batch is None:
        batch = min(LARGEST_DEFAULT_BATCH, available)
        batch -= batch % config.num_mini_batches
        if batch < SMALLEST_BATCH:
            raise InputError(
                f"{num_questions} questions x --repeats_per_epoch {repeats} on {world_size} process(es): "
                f"too few for {config.num_mini_batches} minibatches and at least {SMALLEST_BATCH} episodes; raise "
                "--repeats_per_epoch or lower --num_mini_batches"
            )
    if batch > available:
        raise InputError(
            f"--per_device_train_batch_size {batch}: {num_questions} questions x --repeats_per_epoch {repeats} on "
            f"{world_size} process(es) fill at most {available}"
        )
    if batch < SMALLEST_BATCH:
        raise InputError(
            f"--per_device_train_batch_size {batch}: at least {SMALLEST_BATCH}, advantages are whitened over it"
        )
    if batch % config.num_mini_batches:
        raise InputError(f"--num_mini_batches {config.num_mini_batches} does not divide the batch of {batch} episodes")
    if config.whiten_rewards and batch // config.num_mini_batches < SMALLEST_BATCH:
        raise InputError(
            f"--whiten_rewards: minibatches of {batch // config.num_mini_batches} episodes, at least {SMALLEST_BATCH}"
        )
    return batch


def updates_between_measurements(config: PPOConfig, batch: int, num_questions: int, num_measured: int) -> int:
    """Updates after which the exact metrics are measured again, by one forward pass of `num_measured` questions.

    An update takes a forward pass of the batch, then a forward and a backward pass, two more, of every minibatch of
    every epoch; a question that stands in one of them twice is computed once.
    """
    minibatch = min(batch // config.num_mini_batches, num_questions)
    update = (1 + 2) * config.num_ppo_epochs * config.num_mini_batches * minibatch
    passes = min(batch, num_questions) + update
    return max(1, math.ceil(num_measured / (MEASURING_SHARE * passes)))
