"""The method that trains nothing: the SFT reference as a run, so that it can be part of a comparison."""

from transformers import PreTrainedModel

from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.run import Run


def fit(task: Task[ReferenceConfig], run: Run) -> PreTrainedModel:
    """Returns the reference itself."""
    run.log({"stage": run.method, "step": 0, **task.exact_metrics(task.classifier)})
    return task.classifier
