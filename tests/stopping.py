"""Short trainings that are stopped in the middle, and what two runs have in common."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eightball_ppo.errors import TrainingInterrupted
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.run import read_metrics
from eightball_ppo.training.checkpoint import CheckpointWriter

OF_THE_CLOCK = ("eps", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def stopped(train: Callable[[Any], Path], config: Any, after: int) -> TrainingInterrupted:
    """Run `train` and send this process SIGTERM while it is in update `after` of all; returns how it ended."""
    looked = CheckpointWriter.due

    def due(self: CheckpointWriter, update: int) -> bool:
        if self.resume.updates_before + update == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return looked(self, update)

    with pytest.MonkeyPatch.context() as patch, signals.install_handlers():
        patch.setattr(CheckpointWriter, "due", due)
        with pytest.raises(TrainingInterrupted) as end:
            train(config)
    return end.value


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in read_metrics(run)]


def assert_same(straight: Path, resumed: Path) -> None:
    """The same weights, rows, results and files, to the last bit."""
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (straight, resumed)]
    assert names[0] == names[1]
    assert rows(straight) == rows(resumed)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (straight / name).exists():
            assert (straight / name).read_bytes() == (resumed / name).read_bytes()
    results = [json.loads((run / "results.json").read_text()) for run in (straight, resumed)]
    for own in results:
        del own["seconds"]
        own.get("grades", {}).pop(
            "calls_made", None
        )  # of the straight run none, if it came later: they are in the store
    unlike = {name for name in results[0] | results[1] if results[0].get(name) != results[1].get(name)}
    assert not unlike, {name: [own.get(name) for own in results] for name in unlike}
