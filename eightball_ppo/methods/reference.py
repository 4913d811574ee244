"""The method that does nothing: the SFT reference as a run like any other, so that it can stand in a comparison."""

from transformers import PreTrainedModel

from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.run import Run


def fit(task: Task[ReferenceConfig], run: Run) -> PreTrainedModel:
    """The reference itself."""
    run.log({"stage": run.method, "step": 0, **task.exact_metrics(task.classifier)})
    return task.classifier
