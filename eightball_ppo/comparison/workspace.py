"""The directory of a comparison: made once, resumed afterwards, refused where it belongs to another comparison.

config.yaml environment.json   options and environment; the fixed options must be the same on every resumption
manifest.json                  the grader, and checksums of what all runs share
reference/ grades.parquet      the reference policy and the grade table of all runs
data/                          the questions, where a Python program passed them
runs/NAME/ logs/NAME.txt       each run of the grid, and what it printed
"""

import copy
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eightball_ppo.comparison.grid import GRADES, REFERENCE_DIR, RunSpec, shared_options
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.defaults import Kind
from eightball_ppo.config.fields import options_without_effect
from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.config.grader import GRADE_LIMIT_OPTIONS
from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.data import Questions, pairs
from eightball_ppo.errors import InputError
from eightball_ppo.graders.job import grade_job, make_budget, make_source
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import write_table
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.defaults import fitting
from eightball_ppo.methods.inputs import NO_INPUTS, Inputs, load_splits
from eightball_ppo.methods.prerequisites import train_prerequisites
from eightball_ppo.methods.score_unit import spread
from eightball_ppo.models.loading import label_set, load_classifier
from eightball_ppo.models.tokenization import set_max_length
from eightball_ppo.runtime.atomic_io import write_json, write_text
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import CONFIG, ENVIRONMENT, environment, read_config, write_config

DATA = "data"
QUESTIONS = "questions"
TRAINING_QUESTIONS = "training_questions"
SCORE_UNIT = "score_unit"
MANIFEST = "manifest.json"  # written last: once it exists, the reference and the grades are complete
SOURCE_OPTIONS = ("sft_model_path", "reward_model_path", "grade_table")  # read once, when the directory is made


def check(config: CompareConfig, questions: Mapping[str, Questions]) -> None:
    """Checks that the comparison can be made, or resumed, in its directory; writes nothing.

    Raises:
        InputError: the directory holds other files, or a comparison with other options, data, reference or grades.
    """
    directory = Path(config.output_dir)
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not (directory / CONFIG).is_file() or not is_prepared(config):
        if _only_prepared_in_part(directory):
            return
        raise InputError(f"{directory}: holds files that are no comparison; name another --output_dir")
    saved, current = read_config(directory), fixed_settings(config)
    for name, value in {**current, **{name: getattr(config, name) for name in SOURCE_OPTIONS}}.items():
        if saved.get(name) != value and not (name in SOURCE_OPTIONS and _same_path(saved.get(name), value)):
            raise InputError(
                f"{directory}: was compared with --{name} {saved.get(name)}, not {value}; name another --output_dir, "
                "or remove this one"
            )
    recorded = manifest(directory)
    for name, digest in fingerprints(directory).items():
        if recorded.get(name) != digest:
            raise InputError(
                f"{directory / name}: is not the one that the runs here were made with; restore it, or name another "
                "--output_dir"
            )
    digest = digest_of(questions)
    if recorded.get(QUESTIONS, digest) != digest:
        raise InputError(
            f"--dataset_name {config.dataset_name}: is not what the runs in {directory} were made with; restore the "
            "old data, or name another --output_dir"
        )


def _same_path(saved: str | None, current: str | None) -> bool:
    return None not in (saved, current) and Path(str(saved)).resolve() == Path(str(current)).resolve()


def _only_prepared_in_part(directory: Path) -> bool:
    """Whether a comparison was killed there before its grades were complete, and nothing else is in the directory."""
    known = {CONFIG, ENVIRONMENT, REFERENCE_DIR, GRADES, DATA, MANIFEST}
    known |= {f".{name}.unfinished" for name in known}  # what a kill leaves of a file that was being written
    return (directory / CONFIG).is_file() and all(path.name in known for path in directory.iterdir())


def manifest(directory: Path) -> dict[str, Any]:
    """Reads manifest.json: `grader`, `grader_settings`, and the checksums of what all runs share."""
    try:
        return dict(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"{directory / MANIFEST}: damaged; name another --output_dir") from None


def fixed_settings(config: CompareConfig) -> dict[str, Any]:
    """The options that must stay the same when a comparison is resumed or extended."""
    changeable = options_without_effect(GraderTrainingConfig).union(SOURCE_OPTIONS, GRADE_LIMIT_OPTIONS)
    return redacted({name: value for name, value in shared_options(config).items() if name not in changeable})


def fingerprints(directory: Path) -> dict[str, str | None]:
    """sha256 of the grade table and of the reference's weights; None for a file that is missing."""

    def digest(path: Path) -> str | None:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    return {name: digest(directory / name) for name in (GRADES, f"{REFERENCE_DIR}/model.safetensors")}


def digest_of(questions: Mapping[str, Questions]) -> str:
    """sha256 of all questions and gold labels."""
    content = {name: [list(split.texts), split.label_ids] for name, split in questions.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
    if not is_prepared(config):
        _make_reference_and_grades(config, directory, given)
    config = with_kl_coefs(config)
    write_config(directory, config)
    write_json(directory / ENVIRONMENT, environment(config.trust_remote_code))
    return config


def with_kl_coefs(config: CompareConfig) -> CompareConfig:
    """The options with KL coefficients; those of raw scores are known once the grades are made."""
    return config.with_kl_coefs(_score_unit(config) or 1.0)


def has_raw_scores(config: CompareConfig) -> bool:
    """Whether the grades are made, and are raw scores."""
    return _score_unit(config) is not None


def _score_unit(config: CompareConfig) -> float | None:
    """The standard deviation of raw scores over labels; None if the grader gives probabilities, or no grade is made."""
    unit = manifest(Path(config.output_dir)).get(SCORE_UNIT) if is_prepared(config) else None
    if unit is not None and not (isinstance(unit, float) and 0 < unit < math.inf):
        raise InputError(f"{Path(config.output_dir) / MANIFEST}: damaged; name another --output_dir")
    return unit


def _make_reference_and_grades(config: CompareConfig, directory: Path, given: Inputs) -> None:
    labels = config.label_set()
    stage = ReferenceConfig(**shared_options(config) | {"seed": config.seeds[0]})
    questions = load_splits(stage, given)
    train_prerequisites(stage, given.model is None, given.judge is None)
    classifier, tokenizer = copy.deepcopy(given.model) or load_classifier(
        config.sft_model_path, "--sft_model_path", trust_remote_code=config.trust_remote_code
    )
    labels.require_same(label_set(classifier), "--labels", f"--sft_model_path {config.sft_model_path}")
    scores = grade_job(stage, labels, questions, given.judge).tables["train"]
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory, config)
    if given.train is not None:
        _write_questions(directory / DATA, questions, labels)
    shutil.rmtree(directory / REFERENCE_DIR, ignore_errors=True)
    set_max_length(tokenizer, classifier, config.max_length)
    classifier.save_pretrained(directory / REFERENCE_DIR)
    tokenizer.save_pretrained(directory / REFERENCE_DIR)
    with GradeStore(config.grade_store) as store:
        source = make_source(stage, labels, store, make_budget(stage), given.judge)
        write_table(source, [text for split in questions.values() for text in split.texts], directory / GRADES)
        about: dict[str, Any] = {"grader": source.fingerprint, "grader_settings": source.settings}
    about |= {TRAINING_QUESTIONS: len(questions["train"])}
    if scores.scale == "raw":
        about |= {SCORE_UNIT: spread(scores.score_NK[torch.from_numpy(scores.complete_N)])}
    write_json(directory / MANIFEST, {**fingerprints(directory), QUESTIONS: digest_of(questions), **about})


def with_own_data(config: CompareConfig, train: Questions | None) -> CompareConfig:
    """`config` with the directory to which `prepare` writes the questions, if a program passes them."""
    if train is None:
        return config
    pair = "text_pair" if any(pairs.SEPARATOR in text for text in train.texts) else None
    columns: dict[str, Any] = {"text_column": "question", "text_pair_column": pair, "label_column": "answer"}
    splits: dict[str, Any] = {"dataset_train_split": None, "dataset_test_split": "heldout", "dataset_format": "plain"}
    return dataclasses.replace(config, dataset_name=str(Path(config.output_dir) / DATA), **columns, **splits)


def _write_questions(directory: Path, questions: Mapping[str, Questions], labels: LabelSet) -> None:
    directory.mkdir(exist_ok=True)
    for split, file in (("train", f"{CompareConfig.default_train_split}.jsonl"), ("heldout", "heldout.jsonl")):
        table = pairs.columns(questions[split].texts)
        if (label_ids := questions[split].label_ids) is not None:
            table["answer"] = [labels.names[label] for label in label_ids]
        rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
        write_text(directory / file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def is_prepared(config: CompareConfig) -> bool:
    """Whether the reference and the grade table exist."""
    return (Path(config.output_dir) / MANIFEST).is_file()


def check_same_config(directory: Path, config: MethodConfig) -> None:
    """Checks that a finished run was made with the options of `config`.

    Raises:
        InputError: an option that affects results differs.
    """
    changeable = options_without_effect(type(config)).union(SOURCE_OPTIONS, GRADE_LIMIT_OPTIONS)
    if config.score_type is None:  # the grades, which are the same, decide it
        changeable = changeable.union(["score_type"])
    saved = read_config(directory)
    for name, value in redacted(dataclasses.asdict(_with_defaults(config))).items():
        if name not in changeable and saved.get(name) != value:
            raise InputError(f"{directory}: was made with --{name} {saved.get(name)}, not {value}")


def _with_defaults(config: MethodConfig) -> MethodConfig:
    """The options with the defaults that fit the reference and the questions of the comparison."""
    reference = Path(config.sft_model_path)
    try:
        model = json.loads((reference / "config.json").read_text(encoding="utf-8"))
        frozen = getattr(config, "freeze_encoder", None)
        frozen = model.get("frozen", False) if frozen is None else frozen
        kind: Kind = "small" if model["model_type"] == "eightball" else "frozen" if frozen else "encoder"
        return fitting(config, kind, int(manifest(reference.parent)[TRAINING_QUESTIONS]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{reference.parent}: its reference or its {MANIFEST} is damaged") from None


def log_file(config: CompareConfig, spec: RunSpec) -> Path:
    """The file with the output of the worker that makes `spec`."""
    return Path(config.output_dir) / "logs" / f"{spec.name}.txt"
