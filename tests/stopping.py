"""Short trainings that are stopped in the middle, and the comparison of two runs."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eightball_ppo.errors import TrainingInterrupted
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.run import read_metrics, read_results
from eightball_ppo.training.checkpoint import CheckpointWriter

CLOCK_METRICS = ("eps", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def stopped(train: Callable[[Any], Path], config: Any, after: int) -> TrainingInterrupted:
    """Run `train`, with SIGTERM to this process in update `after` of all trainings; returns its exception."""
    due = CheckpointWriter.due

    def terminated(self: CheckpointWriter, update: int) -> bool:
        if self.resume.updates_before + update == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self, update)

    with pytest.MonkeyPatch.context() as patch, signals.install_handlers():
        patch.setattr(CheckpointWriter, "due", terminated)
        with pytest.raises(TrainingInterrupted) as end:
            train(config)
    return end.value


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without timings."""
    return [{k: v for k, v in row.items() if k not in CLOCK_METRICS} for row in read_metrics(run)]


def assert_same(straight: Path, resumed: Path) -> None:
    """The same weights, rows, results and files, to the last bit."""
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (straight, resumed)]
    assert names[0] == names[1]
    assert rows(straight) == rows(resumed)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (straight / name).exists():
            assert (straight / name).read_bytes() == (resumed / name).read_bytes()
    results = [read_results(run) for run in (straight, resumed)]
    for record in results:
        del record["seconds"], record["verdict"]  # which names the directory
        record.get("grades", {}).pop("calls_made", None)  # the second run finds all grades in the store
    different = {name for name in results[0] | results[1] if results[0].get(name) != results[1].get(name)}
    assert not different, {name: [record.get(name) for record in results] for name in different}
