"""Episodes per update of PPO, repeats of each question per epoch, and how often the exact metrics are computed."""

import math

from eightball_ppo.config.fields import require
from eightball_ppo.config.methods import PPOConfig

MAX_DEFAULT_BATCH = 1200  # episodes
MIN_BATCH = 8  # whitening divides by the batch's standard deviation; a batch of 1 turns the weights into NaN
METRICS_COMPUTE_SHARE = 0.05  # of the training's forward and backward passes that the exact metrics may add


def repeats_per_epoch(config: PPOConfig, num_questions: int, world_size: int) -> int:
    """How often each question is asked in one epoch.

    By default twice; few questions are repeated until an epoch fills a batch, because minibatches of a few episodes do
    not learn.
    """
    if config.repeats_per_epoch is not None:
        return config.repeats_per_epoch
    batch = min(MAX_DEFAULT_BATCH, config.total_episodes or MAX_DEFAULT_BATCH)
    if config.per_device_train_batch_size is not None:
        batch = config.per_device_train_batch_size * world_size
    return max(2, -(-batch // num_questions))


def batch_size(config: PPOConfig, num_questions: int, world_size: int) -> int:
    """Episodes per update and process: the configured number, or the largest that fits, at most `MAX_DEFAULT_BATCH`.

    Raises:
        InputError: The questions cannot fill one batch (TRL would wait for ever), the minibatches do not divide it, or
            it is too small to be whitened.
    """
    repeats, mini_batches = repeats_per_epoch(config, num_questions, world_size), config.num_mini_batches
    available = num_questions * repeats // world_size
    supply = f"{num_questions} questions x --repeats_per_epoch {repeats} on {world_size} process(es)"
    batch = config.per_device_train_batch_size
    if batch is None:
        batch = min(MAX_DEFAULT_BATCH, available) // mini_batches * mini_batches
        require(
            batch >= MIN_BATCH,
            f"{supply}: too few for {mini_batches} minibatches and at least {MIN_BATCH} episodes; raise "
            "--repeats_per_epoch or lower --num_mini_batches",
        )
    flag, minibatch = f"--per_device_train_batch_size {batch}", batch // mini_batches
    require(batch <= available, f"{flag}: {supply} fill at most {available}")
    require(batch >= MIN_BATCH, f"{flag}: at least {MIN_BATCH}, advantages are whitened over it")
    divides = batch % mini_batches == 0
    require(divides, f"--num_mini_batches {mini_batches} does not divide the batch of {batch} episodes")
    whitened = not config.whiten_rewards or minibatch >= MIN_BATCH
    require(whitened, f"--whiten_rewards: minibatches of {minibatch} episodes, at least {MIN_BATCH}")
    return batch


def updates_between_metrics(config: PPOConfig, batch: int, num_questions: int, num_measured: int) -> int:
    """Number of updates from one computation of the exact metrics to the next.

    The metrics take one forward pass of `num_measured` questions. An update takes a forward pass of the batch, then a
    forward and a backward pass (as much as two more) of every minibatch of every PPO epoch; a question that occurs
    twice in a pass is computed once.
    """
    assert config.num_ppo_epochs is not None
    minibatch = min(batch // config.num_mini_batches, num_questions)
    update = (1 + 2) * config.num_ppo_epochs * config.num_mini_batches * minibatch
    passes = min(batch, num_questions) + update
    return max(1, math.ceil(num_measured / (METRICS_COMPUTE_SHARE * passes)))
