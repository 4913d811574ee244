"""The context in which `train()` of TRL's trainers runs."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

from transformers import set_seed

from eightball_ppo.runtime.signals import defer_signals
from eightball_ppo.trl_adapters.speedups import vectorised_log_softmax

RANK_SEED_STEP = 100_003  # TRL's own distance between the seeds of two ranks


@contextlib.contextmanager
def trl_loop(trainer: Any, seed: int) -> Iterator[None]:
    """Context of TRL's `train()`: seeds all generators, sends its prints to stderr, and defers signals.

    A signal is handled at the end of an update. TRL's PPO seeds torch alone, but draws its minibatches from numpy's
    generator. It also collects garbage twice an update, which takes 7 times as long as the update itself unless the
    objects that exist before are frozen.
    """
    set_seed(seed + RANK_SEED_STEP * trainer.accelerator.process_index)
    gc.collect()
    gc.freeze()
    try:
        with contextlib.redirect_stdout(sys.stderr), vectorised_log_softmax(trainer), defer_signals():
            yield
    finally:
        gc.unfreeze()
