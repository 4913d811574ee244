"""What `QuickAdamW` and `FusedForward` save: processor time of PPO's updates with and without each.

python benchmarks/speedups.py                          # 64, 512 and 1200 episodes an update, nine rounds
python benchmarks/speedups.py --episodes 64 --rounds 3

One process switches both on and off in random order, update by update, so that the ratios do not depend on which
process ran where. A round is several updates of each of the four combinations.
"""

import argparse
import contextlib
import random
import statistics
import time
from typing import Any

import torch
from peers.ours import Ours
from peers.task import BenchTask, Settings

from eightball_ppo.runtime.logging import silence_libraries
from eightball_ppo.trl_adapters import speedups

VARIANTS = ((True, True), (True, False), (False, True), (False, False))  # (QuickAdamW, FusedForward)


class Finished(Exception):  # noqa: N818  nothing went wrong
    """The end of the measurement."""


def measure(episodes: int, rounds: int, updates: int) -> list[dict[Any, float]]:
    """Processor seconds of each combination in each round, `updates` updates of `episodes` episodes each."""
    plan: list[tuple[int | None, Any]] = [(None, variant) for variant in VARIANTS * 2]  # to warm up
    for r in range(rounds):
        plan += [(r, variant) for _ in range(updates) for variant in random.sample(VARIANTS, len(VARIANTS))]
    seconds = [dict.fromkeys(VARIANTS, 0.0) for _ in range(rounds)]
    quick, quick_is_on, started, done = speedups.QuickAdamW.step, True, 0.0, 0

    def step(self: Any, closure: Any = None) -> Any:
        return quick(self) if quick_is_on else torch.optim.AdamW.step(self)

    def on_update(*_: Any) -> None:
        nonlocal started, done, quick_is_on
        if done:
            r, variant = plan[done - 1]
            if r is not None:
                seconds[r][variant] += time.process_time() - started
        if done == len(plan):
            raise Finished
        quick_is_on, fused = plan[done][1]
        trunk.fused_forward, policy.cached_logits = both if fused else (None, None)
        done += 1
        started = time.process_time()

    speedups.QuickAdamW.step = step  # type: ignore[method-assign]  # before the scheduler wraps it
    settings = Settings(batch=episodes, beta=0.1, total_episodes=episodes * (len(plan) + 3))
    run = Ours(BenchTask(0), settings, on_update)
    policy, trunk = run.models.policy, run.models.value.trunk
    both = (trunk.fused_forward, policy.cached_logits)
    with contextlib.suppress(Finished):
        run.run()
    speedups.QuickAdamW.step = quick  # type: ignore[method-assign]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[64, 512, 1200], help="episodes an update")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=4, help="updates of each combination in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    print("| episodes | without / with | median | range |\n|--:|---|--:|---|")
    for episodes in options.episodes:
        seconds = measure(episodes, options.rounds, options.updates)
        for name, without, with_it in (
            ("QuickAdamW", VARIANTS[2], VARIANTS[0]),
            ("FusedForward", VARIANTS[1], VARIANTS[0]),
            ("both", VARIANTS[3], VARIANTS[0]),
        ):
            ratios = [row[without] / row[with_it] for row in seconds]
            shown = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"| {episodes} | {name} | {statistics.median(ratios):.3f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
