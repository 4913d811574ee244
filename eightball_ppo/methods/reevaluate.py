"""A policy that was trained before, measured at another price of KL: for methods whose training knows none."""

from pathlib import Path

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.run_method import finish
from eightball_ppo.methods.task import load_splits, load_task
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import label_set, load_classifier
from eightball_ppo.runtime.run import Run, read_results

# What a run's results say of the measuring, not of the training that came before it.
EVAL_KEYS = ("beta", "grader", "grades", "score_type", "truncated_questions", "splits", "reference")


def reevaluate(config: MethodConfig, trained: Path) -> Path:
    """Write the policy of the run `trained` as a run with the `kl_coef` of `config`; it took what that one took.

    Raises:
        InputError: as `load_task`, or a run or policy that cannot be read, or one with other labels.
    """
    config = with_labels(config)
    task = load_task(config, load_splits(config))
    results = read_results(trained)
    if not {"episodes", "grader_calls"} <= set(results):
        raise InputError(f"{trained}: its results do not say what its training took; train it anew")
    policy, _ = load_classifier(str(trained), "run", trust_remote_code=config.trust_remote_code)
    task.labels.require_same(label_set(policy), "--labels", f"run {trained}")
    took = {name: value for name, value in results.items() if name not in EVAL_KEYS}
    with Run(config, results["method"]) as run:
        spent = {"grader_calls": results["grader_calls"]}
        run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy), **spent})
        run.results |= {**took, "measured_from": trained.name}
        return finish(task, policy, run)
