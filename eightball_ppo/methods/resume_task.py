"""How a method that learns from grades is resumed: what its training starts from, and what its grades have cost."""

from typing import Any

from eightball_ppo.methods.task import Task
from eightball_ppo.training.resume import ResumeContext, ResumePoint, input_fingerprint
from eightball_ppo.training.state import StateDict


def resume_context_for_task(task: Task, point: ResumePoint | None) -> ResumeContext:
    """How a graded method is stopped and resumed.

    Raises:
        InputError: The checkpoint has another reference, or other questions or grades.
    """
    scores = task.train_scores.score_NK.cpu().contiguous().numpy().tobytes()
    data = [scores, *(text.encode() + b"\0" for text in task.questions["train"].texts)]
    inputs = input_fingerprint("reference (--sft_model_path)", task.classifier, "set of questions and grades", data)
    return ResumeContext(inputs, point, [("grading_cost", GradingCostState(task.grading_record))])


class GradingCostState:
    """The cost of grading. A resumed run finds most grades in the store, so the costs of both parts are added up."""

    def __init__(self, record: dict[str, Any]):
        self.record = record

    def state_dict(self) -> StateDict:
        """The state that a checkpoint holds."""
        return {name: self.record[name] for name in ("calls_made", "tokens", "cost")}

    def load_state_dict(self, state: StateDict) -> None:
        """Add the cost in a checkpoint to the present one."""
        for name, before in state.items():
            if before is not None:
                self.record[name] = before + (self.record[name] or 0)
