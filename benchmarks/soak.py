"""2,000 updates of PPO: do memory, open files or time grow? Prints one line of JSON and exits with 1 if they do.

    python benchmarks/soak.py

Time is processor time, so that other work on the machine does not count.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.labels import EIGHTBALL_LABELS
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.logging import configure_logging, silence_libraries
from eightball_ppo.runtime.run import Run

UPDATES, WINDOW, BATCH = 2000, 200, 200


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    configure_logging()
    silence_libraries()
    torch.set_num_threads(1)
    seen: list[tuple[float, float, int]] = []
    log = Run.log

    def looked(self: Run, row: dict[str, Any]) -> None:
        log(self, row)
        if row["stage"] == "ppo":
            seen.append((time.process_time(), resident_mb(), len(os.listdir("/proc/self/fd"))))

    Run.log = looked  # type: ignore[method-assign]
    data = Path("datasets/eightball").resolve()
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):  # it also trains the reference
        config = PPOConfig(
            dataset_name=str(data),
            labels=list(EIGHTBALL_LABELS),
            grader="rule:Yes",
            allow_weak_grader=True,
            per_device_train_batch_size=BATCH,
            num_mini_batches=4,
            num_ppo_epochs=2,
            total_episodes=UPDATES * BATCH,
            save_steps=100,
            save_total_limit=2,
            disable_tqdm=True,
        )
        run_method(config)
    seconds, megabytes, files = zip(*seen, strict=True)
    steps = [after - before for before, after in itertools.pairwise(seconds)]
    # medians: a checkpoint every hundredth update is no slowdown
    first, last = statistics.median(steps[:WINDOW]), statistics.median(steps[-WINDOW:])
    report = {
        "updates": len(seen),
        "growth_mb": round(megabytes[-1] - megabytes[WINDOW - 1], 1),
        "open_files": [files[WINDOW - 1], files[-1]],
        "milliseconds_first": round(1e3 * first, 2),
        "milliseconds_last": round(1e3 * last, 2),
        "slowdown": round(last / first - 1, 3),
    }
    print(json.dumps(report), file=sys.stderr)
    growing = megabytes[-1] - megabytes[WINDOW - 1] >= 20 or files[-1] != files[WINDOW - 1] or last > 1.1 * first
    return int(growing or len(seen) != UPDATES)


if __name__ == "__main__":
    sys.exit(main())
