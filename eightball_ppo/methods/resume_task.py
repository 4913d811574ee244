"""How a graded method keeps checkpoints: what its training starts from, and what its grades took."""

import hashlib
from typing import Any

from eightball_ppo.methods.task import Task
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.training.checkpoint import Origin
from eightball_ppo.training.resume import Keeping, Resumption
from eightball_ppo.training.state import State


def keeping_task(task: Task, resumed: Resumption | None) -> Keeping:
    """How a graded stage keeps checkpoints.

    Raises:
        InputError: the checkpoint is of another reference, or of other questions or grades.
    """
    origin = origin_of(task)
    if resumed is not None:
        resumed.require(origin)
    return Keeping(origin, resumed, {"spent": Spent(task.grading_record)})


def origin_of(task: Task) -> Origin:
    """What a graded method starts from."""
    digest = hashlib.sha256(task.train_scores.score_NK.cpu().contiguous().numpy().tobytes())
    for text in task.questions["train"].texts:
        digest.update(text.encode() + b"\0")
    return {
        "reference (--sft_model_path)": weights_fingerprint(task.classifier),
        "set of questions and grades": digest.hexdigest(),
    }


class Spent:
    """What grading took, which a run that goes on has asked for before: the counts of both are added up."""

    def __init__(self, record: dict[str, Any]):
        self.record = record

    def state(self) -> State:
        return {name: self.record[name] for name in ("calls_made", "tokens", "cost")}

    def restore(self, state: State) -> None:
        for name, before in state.items():
            if before is not None:
                self.record[name] = before + (self.record[name] or 0)
