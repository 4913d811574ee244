"""What all methods share: check, load, resume, fit, evaluate, write. A method is its options and its `fit`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from eightball_ppo.config import registry
from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.config.training import CheckpointedConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.questions import count_dropped
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.evaluation import before_after
from eightball_ppo.graders.job import gives_raw_scores
from eightball_ppo.graders.judges import check_judge, resolve_judge
from eightball_ppo.graders.reward_functions import columns_by_text
from eightball_ppo.hub.cards import write_card
from eightball_ppo.methods.calibrate import calibrate
from eightball_ppo.methods.inputs import Inputs, LoadedModel, load_splits
from eightball_ppo.methods.preflight import check_questions, load_part, preflight
from eightball_ppo.methods.prerequisites import check_prerequisites, estimate_stage_cost
from eightball_ppo.methods.resume_task import resume_context_for_task
from eightball_ppo.methods.task import Task, load_task, logits_NK
from eightball_ppo.models.label_inference import in_model_order, with_labels
from eightball_ppo.models.loading import label_set
from eightball_ppo.models.saving import save_policy
from eightball_ppo.report import plots, tables, verdict
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.progress import METRICS
from eightball_ppo.runtime.run import Run, check_output_dir, read_metrics
from eightball_ppo.training.resume import find_resume_point

RESOLVED = ("learning_rate", "value_learning_rate", "total_episodes", "num_train_epochs", "stop_optimum_fraction")


def run_method(
    config: MethodConfig,
    *,
    model: LoadedModel | None = None,
    judge: Any = None,
    train: Questions | None = None,
    evaluation: Questions | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    temporary: bool = False,
) -> Path:
    """Trains the policy of `config` into `config.output_dir`, and the default reference and reward model if missing.

    Args:
        config: The options of a method of `METHODS`.
        model: The reference and its tokenizer, instead of `config.sft_model_path`; neither is changed.
        judge: Scores the answers, instead of the grader or the grade table of `config`: whatever `as_grader` takes.
        train: The questions to learn from, instead of those of `config`.
        evaluation: The questions to measure on, instead of those of `config` or of a part cut from `train`. Their
            labels, if they have some, are gold.
        callbacks: Added to the trainer, behind ours.
        temporary: Whether the caller will remove the run, so that the verdict must not name its directory.

    Returns:
        The directory of the finished run.

    Raises:
        DryRun: `config.dry_run` is set; the message says what grading would cost.
        InputError: Bad data, checkpoint, grader, batch or output directory; nothing is written then.
        IncompleteError: Too many grades failed.
        TrainingInterrupted: A signal stopped the training.
    """
    name = registry.method_of(config)
    spec = registry.METHODS[name]
    check_output_dir(config)
    if isinstance(judge, str):
        config, judge = replace(config, grader=judge, grade_table=None), None
    given = Inputs(model, judge, train, evaluation)
    _check_given(given)
    config = with_labels(config) if model is None else in_model_order(config, label_set(model[0]))
    questions = load_splits(config, given)
    if judge is not None:
        config, judge = resolve_judge(config, judge, columns_by_text(*questions.values()))
        given = given._replace(judge=judge)
    config = config.with_score_type(gives_raw_scores(config, config.label_set(), judge))
    if config.dry_run:
        check_prerequisites(config, model is None, judge is None)
        raise DryRun(estimate_stage_cost(config, questions, judge))
    config, reference = preflight(config, questions, model)
    point = find_resume_point(config, name) if isinstance(config, CheckpointedConfig) else None
    task = load_task(config, questions, given._replace(model=reference))
    check_questions(config, len(task.questions["train"]))  # without those that have no complete grade
    task = replace(task, resume=resume_context_for_task(task, point), callbacks=tuple(callbacks), temporary=temporary)
    with Run(task.recorded_config or config, name, task.resume.progress) as run:
        policy = load_part(name, spec.fit)(task, run)
        if not isinstance(policy, nn.Module):
            raise InputError(f"method {name}: {spec.fit} returned {type(policy).__name__}, not a model")
        if task.calibration is not None:
            calibrate(policy, task.calibration, task.config.score_type == "raw", run)
        return finish(task, policy, run)


def _check_given(given: Inputs) -> None:
    """Raises InputError for objects that cannot replace what a config names."""
    if given.judge is not None:
        check_judge(given.judge)
    if given.model is not None and not (isinstance(given.model, tuple) and isinstance(given.model[0], nn.Module)):
        raise InputError("model: a classifier and its tokenizer are needed, as a tuple")
    for name, questions in (("train", given.train), ("evaluation", given.evaluation)):
        if questions is not None and (not isinstance(questions, Questions) or not len(questions)):
            raise InputError(f"{name}: Questions with at least one text are needed")
    label_ids = None if given.evaluation is None else given.evaluation.label_ids
    if given.evaluation is not None and label_ids is not None and len(label_ids) != len(given.evaluation):
        raise InputError("evaluation: a label id for every text is needed, or none")


def finish(task: Task[Any], policy: PreTrainedModel, run: Run) -> Path:
    """Evaluates the trained policy, writes everything that a run directory holds, and prints tables and verdict.

    Args:
        task: The task.
        policy: The trained policy.
        run: The run.

    Returns:
        The directory of the finished run.
    """
    task.train_scores.all_reduce_observed()
    after_NK = {split: logits_NK(policy, table) for split, table in task.tokens.items()}
    config = task.config
    results = {
        "method": run.method,
        "seed": config.seed,
        "beta": task.beta,
        "episodes": 0,
        "grader_calls": task.train_scores.calls,
        "grader_call_budget": config.grader_call_budget,
        "label_noise": config.noise.rate,
        "label_noise_kind": config.noise.kind if config.noise.rate else None,
        "grader": task.grader_fingerprint,
        "grades": task.grading_record,
        "score_type": config.score_type,
        "dtype": config.dtype,
        "mixed_precision": mixed_precision(),
        "dropped_rows": count_dropped(task.questions.values()),
        "truncated_questions": sum(table.truncated for table in task.tokens.values()),
        "splits": {split: task.record(split, table_NK) for split, table_NK in after_NK.items()},
        "reference": {split: task.record(split, table_NK) for split, table_NK in task.ref_logits_NK.items()},
        "seconds": run.seconds,
        **{name: getattr(config, name) for name in RESOLVED if hasattr(config, name)},
        **run.results,
    }
    table, change = None, _change(task, after_NK["heldout"])
    results |= {"change": asdict(change), "verdict": _verdict(task, change)}
    if is_main_process():
        save_policy(policy, task.tokenizer, run.path, merge=getattr(config, "merge_adapter", False))
        before_and_after_NK = (task.ref_logits_NK["heldout"], after_NK["heldout"])
        table = before_after(task.graded("heldout"), *before_and_after_NK, task.labels, config.seed)
        table.to_parquet(run.path / "before_after.parquet")
        if not (run.path / METRICS).exists():  # the method logs nothing
            run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy)})
        plots.plot_label_histogram(results, run.path / "labels.png")
        plots.plot_curves(read_metrics(run.path), run.path / "curves.png", run.method)
        write_card(run.path, results)
    target = run.finish(results)
    if table is not None:
        tables.print_before_after(table, task.labels)
        tables.print_results(results, config.grade_table or config.grader)
        verdict.print_verdict(results["verdict"])
    return target


def _change(task: Task[Any], after_NK: Tensor) -> verdict.Change:
    """The held-out texts on which the policy is right, before and after, by gold label; without any, by the judge's."""
    gold = task.questions["heldout"].label_ids if task.questions["heldout"].gold else None
    right_N = task.graded("heldout").score_NK.argmax(-1).numpy() if gold is None else np.asarray(gold)
    before_N, after_N = (logits.argmax(-1).numpy() for logits in (task.ref_logits_NK["heldout"], after_NK))
    return verdict.mcnemar(before_N == right_N, after_N == right_N, gold=gold is not None)


def _verdict(task: Task[Any], change: verdict.Change) -> list[str]:
    """The three sentences at the end of a run."""
    config = task.config
    if task.temporary:
        saved, follow = "Not saved yet: trainer.save_model(DIRECTORY) keeps it", "Next: trainer.predict(TEXTS)"
        return [verdict.change_sentence(change), saved, follow]
    command = verdict.predict_command(config.output_dir, task.questions["heldout"].texts)
    if change.verdict == "worse" and config.grade_table is None:
        command = ("audit", "--grader", config.grader, *config.flags())
    return [
        verdict.change_sentence(change),
        verdict.saved_sentence(config.output_dir),
        verdict.next_sentence(*command),
    ]
