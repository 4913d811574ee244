"""The directory of a comparison: made once, gone on with afterwards, refused where it belongs to another one.

config.yaml environment.json   what is compared; the terms must be the same whenever it is gone on with
reference/ grades.parquet      what every run starts from and is measured with
runs/NAME/ logs/NAME.txt       a run of every cell of the grid, and what it printed
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eightball_ppo.comparison.grid import REFERENCE, TABLE, RunSpec
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.fields import options_without_effect
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.grader import GRADE_LIMIT_OPTIONS
from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.job import grade_job, make_budget, make_source
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import write_table
from eightball_ppo.methods.prerequisites import train_prerequisites
from eightball_ppo.methods.task import load_splits
from eightball_ppo.models.loading import label_set, load_classifier
from eightball_ppo.models.tokenization import set_max_length
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import CONFIG, environment, read_config, write_config

QUESTIONS = "questions"
MANIFEST = "manifest.json"  # written last: with it the reference and the grades are whole
SOURCE_OPTIONS = ("sft_model_path", "reward_model_path", "grade_table")  # copied or read once; then they say what was


def check(config: CompareConfig, questions: Mapping[str, Questions]) -> None:
    """Whether the comparison can be made, or gone on with, in its directory; writes nothing.

    Raises:
        InputError: files that are no comparison, one on other terms, or data, reference or grades that have changed.
    """
    directory = Path(config.output_dir)
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not (directory / CONFIG).is_file() or not (directory / MANIFEST).is_file():
        if _unfinished(directory):
            return
        raise InputError(f"{directory}: holds files that are no comparison; name another --output_dir")
    then, now = read_config(directory), fixed_settings(config)
    for name, value in {**now, **{name: getattr(config, name) for name in SOURCE_OPTIONS}}.items():
        if then.get(name) != value and not (name in SOURCE_OPTIONS and _same_place(then.get(name), value)):
            raise InputError(
                f"{directory}: was compared with --{name} {then.get(name)}, not {value}; name another --output_dir, or "
                "remove this one"
            )
    ground = _read_manifest(directory)
    for name, digest in fingerprints(directory).items():
        if ground.get(name) != digest:
            raise InputError(
                f"{directory / name}: is not the one that the runs here were made with; put it back, or name another "
                "--output_dir"
            )
    if ground.get(QUESTIONS, digest_of(questions)) != digest_of(questions):
        raise InputError(
            f"--dataset_name {config.dataset_name}: is not what the runs in {directory} were made with; put "
            "the old data back, or name another --output_dir"
        )


def _same_place(then: str | None, now: str | None) -> bool:
    return None not in (then, now) and Path(str(then)).resolve() == Path(str(now)).resolve()


def _unfinished(directory: Path) -> bool:
    """Whether nothing but the beginnings of a comparison stands there: it was killed before its grades were whole."""
    known = {CONFIG, "environment.json", REFERENCE, TABLE, MANIFEST}
    known |= {f".{name}.unfinished" for name in known}  # what a kill leaves of a file that was being written
    return (directory / CONFIG).is_file() and all(path.name in known for path in directory.iterdir())


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"{directory / MANIFEST}: damaged; name another --output_dir") from None


def fixed_settings(config: CompareConfig) -> dict[str, Any]:
    """The options that must stay the same while a comparison grows."""
    said = options_without_effect(GraderTrainingConfig).union(SOURCE_OPTIONS, GRADE_LIMIT_OPTIONS)
    names = [field.name for field in dataclasses.fields(GraderTrainingConfig) if field.name not in said]
    return redacted({name: getattr(config, name) for name in names})


def fingerprints(directory: Path) -> dict[str, str | None]:
    """sha256 of the grade table and of the reference's weights; None where one is missing."""

    def digest(path: Path) -> str | None:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    weights = f"{REFERENCE}/model.safetensors"
    return {TABLE: digest(directory / TABLE), weights: digest(directory / weights)}


def digest_of(questions: Mapping[str, Questions]) -> str:
    """sha256 of all questions and wishes."""
    told = {split: [list(own.texts), own.label_ids] for split, own in questions.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def prepare(config: CompareConfig) -> None:
    """Make reference and grade table, training and asking what is missing; nothing where they stand already.

    Raises:
        InputError: bad data, checkpoint or grader.
        IncompleteError: too many grades failed; the good ones are kept.
    """
    directory = Path(config.output_dir)
    labels = config.label_set()
    if not (directory / MANIFEST).is_file():
        shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(GraderTrainingConfig)}
        own = ReferenceConfig(**{**shared, "seed": config.seeds[0]})
        questions = load_splits(own)
        train_prerequisites(own)
        classifier, tokenizer = load_classifier(
            config.sft_model_path, "--sft_model_path", trust_remote_code=config.trust_remote_code
        )
        labels.require_same(label_set(classifier), "--labels", f"--sft_model_path {config.sft_model_path}")
        grade_job(own, labels, questions)
        directory.mkdir(parents=True, exist_ok=True)
        write_config(directory, config)
        shutil.rmtree(directory / REFERENCE, ignore_errors=True)
        set_max_length(tokenizer, classifier, config.max_length)
        classifier.save_pretrained(directory / REFERENCE)
        tokenizer.save_pretrained(directory / REFERENCE)
        with GradeStore(config.grade_store) as store:
            source = make_source(own, labels, store, make_budget(own))
            write_table(source, [text for split in questions.values() for text in split.texts], directory / TABLE)
            about = {"grader": source.fingerprint, "grader_settings": source.settings}
        write_json(directory / MANIFEST, {**fingerprints(directory), QUESTIONS: digest_of(questions), **about})
    write_config(directory, config)
    write_json(directory / "environment.json", environment(config.trust_remote_code))


def is_prepared(config: CompareConfig) -> bool:
    """Whether reference and grades stand there."""
    return (Path(config.output_dir) / MANIFEST).is_file()


def manifest(config: CompareConfig) -> dict[str, Any]:
    """Who graded, `grader` and `grader_settings`, and the fingerprints of what all runs share."""
    return _read_manifest(Path(config.output_dir))


def check_same_config(directory: Path, config: Any) -> None:
    """Raises InputError if a finished run was made with other options than a cell's `config`."""
    then, free = read_config(directory), options_without_effect(type(config)).union(SOURCE_OPTIONS, GRADE_LIMIT_OPTIONS)
    for name, value in redacted(dataclasses.asdict(config)).items():
        if name not in free and then.get(name) != value:
            raise InputError(f"{directory}: was made with --{name} {then.get(name)}, not {value}")


def log_file(config: CompareConfig, cell: RunSpec) -> Path:
    """What a cell's worker printed."""
    return Path(config.output_dir) / "logs" / f"{cell.name}.txt"
