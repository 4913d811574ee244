"""The directory of a comparison: made once, resumed afterwards, refused where it belongs to another comparison.

config.yaml environment.json   options and environment; the fixed options must be the same on every resumption
manifest.json                  the grader, and checksums of what all runs share
reference/ grades.parquet      the reference policy and the grade table of all runs
data/                          the questions, where a Python program passed them
runs/NAME/ logs/NAME.txt       each run of the grid, and what it printed
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eightball_ppo.comparison.grid import RunSpec, grades_file, reference_dir, shared_options
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.defaults import Kind
from eightball_ppo.config.fields import options_without_effect
from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.config.grader import GRADE_LIMIT_OPTIONS
from eightball_ppo.data import Questions, pairs
from eightball_ppo.errors import InputError
from eightball_ppo.methods.defaults import fitting
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import CONFIG, ENVIRONMENT, read_config

DATA = "data"
QUESTIONS = "questions"
TRAINING_QUESTIONS = "training_questions"
SCORE_UNIT = "score_unit"
MANIFEST = "manifest.json"  # written last: once it exists, the reference and the grades are complete
UPSTREAM = "upstream"  # the trainings of the further references and reward models
DECLARED = ("references", "contrasts", "margin")  # before the first run
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
        if saved.get(name, value) != value and not (name in SOURCE_OPTIONS and _same_path(saved.get(name), value)):
            raise InputError(
                f"{directory}: was compared with --{name} {saved.get(name)}, not {value}; name another --output_dir, "
                "or remove this one"
            )
    recorded = manifest(directory)
    for name, digest in fingerprints(directory, config.references).items():
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
    known = {CONFIG, ENVIRONMENT, DATA, MANIFEST, UPSTREAM}
    known |= {name for file in directory.iterdir() if (name := file.name).startswith(("reference", "grades"))}
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
    declared = {name: getattr(config, name) for name in DECLARED}
    shared = {name: value for name, value in shared_options(config).items() if name not in changeable}
    return redacted({**shared, **declared})


def fingerprints(directory: Path, references: int) -> dict[str, str | None]:
    """sha256 of the grade tables and of the references' weights; None for a file that is missing."""

    def digest(path: Path) -> str | None:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    names = [f(number) for number in range(references) for f in (grades_file, weights_file)]
    return {name: digest(directory / name) for name in names}


def weights_file(reference: int) -> str:
    """The weights of a reference, in the directory of the comparison."""
    return f"{reference_dir(reference)}/model.safetensors"


def digest_of(questions: Mapping[str, Questions]) -> str:
    """sha256 of all questions and gold labels."""
    content = {name: [list(split.texts), split.label_ids] for name, split in questions.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def with_kl_coefs(config: CompareConfig) -> CompareConfig:
    """The options with KL coefficients; those of raw scores are known once the grades are made."""
    return config.with_kl_coefs(_score_unit(config))


def has_raw_scores(config: CompareConfig) -> bool:
    """Whether the grades are made, and are raw scores."""
    return _score_unit(config) is not None


def _score_unit(config: CompareConfig) -> float | None:
    """The standard deviation of raw scores over labels; None if the grader gives probabilities, or no grade is made."""
    unit = manifest(Path(config.output_dir)).get(SCORE_UNIT) if is_prepared(config) else None
    if unit is not None and not (isinstance(unit, float) and 0 < unit < math.inf):
        raise InputError(f"{Path(config.output_dir) / MANIFEST}: damaged; name another --output_dir")
    return unit


def with_own_data(config: CompareConfig, train: Questions | None) -> CompareConfig:
    """`config` with the directory to which `prepare` writes the questions, if a program passes them."""
    if train is None:
        return config
    pair = "text_pair" if any(pairs.SEPARATOR in text for text in train.texts) else None
    columns: dict[str, Any] = {"text_column": "question", "text_pair_column": pair, "label_column": "answer"}
    splits: dict[str, Any] = {"dataset_train_split": None, "dataset_test_split": "heldout", "dataset_format": "plain"}
    return dataclasses.replace(config, dataset_name=str(Path(config.output_dir) / DATA), **columns, **splits)


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
