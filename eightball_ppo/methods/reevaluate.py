"""Evaluates a trained policy at another KL coefficient: for methods whose training does not depend on it."""

from pathlib import Path

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.inputs import load_splits
from eightball_ppo.methods.run_method import finish
from eightball_ppo.methods.task import load_task
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import label_set, load_classifier
from eightball_ppo.runtime.run import Run, check_output_dir, read_results

# What results.json says about the evaluation, not about the training before it.
EVAL_KEYS = ("beta", "grader", "grades", "score_type", "truncated_questions", "dropped_rows", "splits", "reference")


def reevaluate(config: MethodConfig, trained: Path) -> Path:
    """Writes the policy of the run `trained` as a run with the `kl_coef` of `config`, and with the cost of `trained`.

    Returns:
        The directory of the finished run.

    Raises:
        InputError: As `load_task`, or `trained` or its policy cannot be read, or has other labels.
    """
    check_output_dir(config)
    config = with_labels(config)
    task = load_task(config, load_splits(config))
    results = read_results(trained)
    if not {"episodes", "grader_calls"} <= set(results):
        raise InputError(f"{trained}: its results lack the cost of its training; train it again")
    policy, _ = load_classifier(str(trained), "run", trust_remote_code=config.trust_remote_code)
    task.labels.require_same(label_set(policy), "--labels", f"run {trained}")
    if label_set(policy) != task.labels:  # trained from that reference, it has its order
        raise InputError(f"{trained}: has its labels in another order than its reference; train it again")
    with Run(task.recorded_config or config, results["method"]) as run:
        calls = {"grader_calls": results["grader_calls"]}
        run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy), **calls})
        run.results |= {name: value for name, value in results.items() if name not in EVAL_KEYS}
        run.results["measured_from"] = trained.name
        return finish(task, policy, run)
