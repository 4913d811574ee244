"""The method that does nothing: the SFT reference as a run like any other, so that it can stand in a comparison."""

from pathlib import Path

from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.errors import DryRun
from eightball_ppo.methods.prerequisites import outlook
from eightball_ppo.methods.task import finish, load_splits, load_task
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.runtime.run import Run, check_output_dir


def train(config: ReferenceConfig) -> Path:
    """Measure the reference, write it as a run to `config.output_dir` and return that.

    Raises:
        DryRun: on a dry run, with what grading would cost.
        InputError: bad input as in `load_task`.
    """
    check_output_dir(config)
    config = with_labels(config)
    questions = load_splits(config)
    if config.dry_run:
        raise DryRun(outlook(config, questions))
    task = load_task(config, questions)
    with Run(config, "sft") as run:
        run.log({"stage": run.method, "step": 0, **task.exact_metrics(task.classifier)})
        return finish(task, task.classifier, run, episodes=0, extra={})
