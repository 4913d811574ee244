"""Makes what all runs of a comparison share: its references, each with a grade table, and the manifest of both."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eightball_ppo.comparison import workspace
from eightball_ppo.comparison.grid import grades_file, reference_dir, shared_options
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.data import Questions, pairs
from eightball_ppo.errors import InputError
from eightball_ppo.graders.job import grade_job, make_budget, make_source
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import write_table
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.inputs import NO_INPUTS, Inputs, load_splits
from eightball_ppo.methods.prerequisites import train_prerequisites, trained_here
from eightball_ppo.methods.score_unit import spread
from eightball_ppo.models.loading import label_set, load_classifier
from eightball_ppo.models.tokenization import set_max_length
from eightball_ppo.runtime.atomic_io import write_json, write_text
from eightball_ppo.runtime.run import ENVIRONMENT, environment, write_config


def prepare(config: CompareConfig, given: Inputs = NO_INPUTS) -> CompareConfig:
    """Makes the reference and the grade table, training and grading what is missing, unless they exist.

    Args:
        config: The options of the comparison.
        given: Objects that replace what `config` names.

    Returns:
        The options with KL coefficients.

    Raises:
        InputError: bad data, checkpoint or grader.
        IncompleteError: too many grades failed; the good ones stay in the grade store.
    """
    directory = Path(config.output_dir)
    if not workspace.is_prepared(config):
        _make_references_and_grades(config, directory, given)
    config = workspace.with_kl_coefs(config)
    write_config(directory, config)
    write_json(directory / ENVIRONMENT, environment(config.trust_remote_code))
    return config


def check_references(config: CompareConfig, given: Inputs = NO_INPUTS) -> None:
    """Raises InputError if more than one reference is asked for, and references are not trained here."""
    if config.references > 1 and (given.model is not None or not trained_here(config, "sft")):
        what = f"--sft_model_path {config.sft_model_path} is" if given.model is None else "the model is"
        raise InputError(
            f"--references {config.references}: {what} one reference; leave it out, or name a recipe with a section "
            "sft:, so that others can be trained"
        )


def _make_references_and_grades(config: CompareConfig, directory: Path, given: Inputs) -> None:
    stages = [_reference_stage(config, number) for number in range(config.references)]
    questions = load_splits(stages[0], given)
    about: dict[str, Any] = {}
    for number, stage in enumerate(stages):
        judge = given.judge is None and (not number or trained_here(config, "reward"))
        train_prerequisites(stage, given.model is None, judge, further=number > 0)
        about = _write_reference_and_grades(config, stage, number, questions, given) | about  # of the first
    if given.train is not None:
        _write_questions(directory / workspace.DATA, questions, config.label_set())
    about |= {
        workspace.QUESTIONS: workspace.digest_of(questions),
        workspace.TRAINING_QUESTIONS: len(questions["train"]),
    }
    files = workspace.fingerprints(directory, config.references)
    write_json(directory / workspace.MANIFEST, {**files, **about})


def _reference_stage(config: CompareConfig, number: int) -> ReferenceConfig:
    """The options by which a reference and its grades are made."""
    paths: dict[str, Any] = {}
    if number:
        upstream = Path(config.output_dir) / workspace.UPSTREAM
        paths["sft_model_path"] = str(upstream / f"sft-{number}")
        if trained_here(config, "reward"):
            paths["reward_model_path"] = str(upstream / f"reward-{number}")
    seed = {"seed": number} if number else {"seed": config.seeds[0]}
    return ReferenceConfig(**shared_options(config) | seed | paths)


def _write_reference_and_grades(
    config: CompareConfig,
    stage: ReferenceConfig,
    number: int,
    questions: Mapping[str, Questions],
    given: Inputs,
) -> dict[str, Any]:
    """Writes a reference and its grade table; returns what the manifest says of the grader."""
    directory, labels = Path(config.output_dir), stage.label_set()
    classifier, tokenizer = copy.deepcopy(given.model) or load_classifier(
        stage.sft_model_path, "--sft_model_path", trust_remote_code=stage.trust_remote_code
    )
    labels.require_same(label_set(classifier), "--labels", f"--sft_model_path {stage.sft_model_path}")
    scores = grade_job(stage, labels, questions, given.judge).tables["train"]
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory, config)
    target = directory / reference_dir(number)
    shutil.rmtree(target, ignore_errors=True)
    set_max_length(tokenizer, classifier, stage.max_length)
    classifier.save_pretrained(target)
    tokenizer.save_pretrained(target)
    with GradeStore(stage.grade_store) as store:
        source = make_source(stage, labels, store, make_budget(stage), given.judge)
        table = directory / grades_file(number)
        write_table(source, [text for split in questions.values() for text in split.texts], table)
        about: dict[str, Any] = {"grader": source.fingerprint, "grader_settings": source.settings}
    if scores.scale == "raw":
        about |= {workspace.SCORE_UNIT: spread(scores.score_NK[torch.from_numpy(scores.complete_N)])}
    return about


def _write_questions(directory: Path, questions: Mapping[str, Questions], labels: LabelSet) -> None:
    directory.mkdir(exist_ok=True)
    for split, file in (("train", f"{CompareConfig.default_train_split}.jsonl"), ("heldout", "heldout.jsonl")):
        table = pairs.columns(questions[split].texts)
        if (label_ids := questions[split].label_ids) is not None:
            table["answer"] = [labels.names[label] for label in label_ids]
        rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
        write_text(directory / file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
