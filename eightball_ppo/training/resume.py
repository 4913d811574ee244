"""Resuming from a checkpoint: find it, check that it is intact and of this run, and load it."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from eightball_ppo.config.fields import options_without_effect, require
from eightball_ppo.config.grader import GRADE_LIMIT_OPTIONS
from eightball_ppo.config.training import CheckpointedConfig, SupervisedConfig
from eightball_ppo.errors import InputError
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.runtime.atomic_io import verify_checksums
from eightball_ppo.runtime.distributed import broadcast_from_main, is_main_process, num_processes
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.progress import METRICS, Progress, checkpoints_in, staging_path
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import ENVIRONMENT, environment, read_environment
from eightball_ppo.training.state import FORMAT, TRAINING, VALUES, StateDict, Stateful, States, load_states, read_header

logger = logging.getLogger(__name__)

RESOLVED = ("kl_coef", "score_type")
HEADER = {"method", "world_size", "mixed_precision", "states"}
REPRODUCIBILITY_KEYS = ("packages", "torch_threads", "cuda")  # of environment.json: the same bits need the same values


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """An intact checkpoint of this run, and the header of its state."""

    path: Path
    header: StateDict


@dataclasses.dataclass(frozen=True)
class ResumeContext:
    """What a training needs to be stopped and resumed, beside its trainer.

    Args:
        inputs: Fingerprints of what the training starts from, by their names in messages.
        point: The checkpoint it resumes from; None starts from the beginning.
        states: What the method must restore, beside what every trainer has.
        updates_before: Updates that earlier trainings of the same run have made.

    Raises:
        InputError: `point` is of a training that started from other inputs.
    """

    inputs: Mapping[str, str]
    point: ResumePoint | None = None
    states: States = ()
    updates_before: int = 0

    def __post_init__(self) -> None:
        if self.point is None:
            return
        for name, fingerprint in self.inputs.items():
            require(
                self.point.header["inputs"].get(name) == fingerprint,
                f"{self.point.path}: was made with another {name}; restore that one, or remove "
                f"{self.point.path.parent} to start over",
            )

    @property
    def progress(self) -> Progress | None:
        """How far the run had come at the resume point."""
        return None if self.point is None else Progress(**self.point.header["progress"])

    def with_states(self, *states: tuple[str, Stateful]) -> "ResumeContext":
        """A copy that restores these states, too."""
        return dataclasses.replace(self, states=[*self.states, *states])

    def load(self, states: States) -> None:
        """Loads `states`, in their order, from the checkpoint, if there is one."""
        if self.point is not None:
            load_states(self.point.path / TRAINING, states)


def resume_context_for_fit(
    config: SupervisedConfig, method: str, model: PreTrainedModel, texts: Sequence[str], label_ids: Sequence[int]
) -> ResumeContext:
    """The resume context of a supervised stage.

    Raises:
        InputError: As `find_resume_point`, or the checkpoint is of another model or other data.
    """
    data = json.dumps([list(texts), list(label_ids)])
    inputs = input_fingerprint("model at the start", model, "set of questions and answers", [data.encode()])
    return ResumeContext(inputs, find_resume_point(config, method))


def input_fingerprint(model_name: str, model: PreTrainedModel, data_name: str, data: Iterable[bytes]) -> dict[str, str]:
    """Fingerprints of the weights and the data that a training starts from, by their names in messages."""
    return {model_name: weights_fingerprint(model), data_name: hashlib.sha256(b"".join(data)).hexdigest()}


def find_resume_point(config: CheckpointedConfig, method: str) -> ResumePoint | None:
    """The checkpoint that `--resume_from_checkpoint` names; None without the flag.

    Raises:
        InputError: There is none, it is damaged, or it is of another run.
    """
    name = config.resume_from_checkpoint
    if name is None:
        return None
    unfinished = staging_path(Path(config.output_dir).absolute())
    path = broadcast_from_main(
        lambda: _newest_intact(unfinished) if name == "true" else _named(name, unfinished), config.ddp_timeout
    )
    point = ResumePoint(path, read_header(path / TRAINING))
    _check_same(point, config, method)
    if is_main_process():
        logger.info("resuming from %s", path)
        _compare_environments(unfinished)
    return point


def _newest_intact(unfinished: Path) -> Path:
    """The newest checkpoint that is intact; warns of every newer one."""
    damage: InputError | None = None
    for path in reversed(checkpoints_in(unfinished)):
        try:
            _check_intact(path)
            return path
        except InputError as error:
            logger.warning("%s; looking for an older one", error)
            damage = damage or error
    if damage is None:
        raise InputError(f"--resume_from_checkpoint true: {unfinished} holds no checkpoint; leave the flag out")
    raise InputError(f"{damage}; remove {unfinished} to start over")


def _named(name: str, unfinished: Path) -> Path:
    path, flag = Path(name).resolve(), f"--resume_from_checkpoint {name}"
    known = path in [checkpoint.resolve() for checkpoint in checkpoints_in(unfinished)]
    require(known, f"{flag}: no checkpoint of this run; name one of {unfinished}, or pass true")
    try:
        _check_intact(path)
    except InputError as error:
        raise InputError(f"{error}; pass true to resume from another, or remove {unfinished} to start over") from None
    return path


def _check_intact(path: Path) -> None:
    """Raises InputError unless the checkpoint and the metrics before it are as they were written."""
    verify_checksums(path)
    try:
        header = read_header(path / TRAINING)
        same_format = header["format"] == FORMAT
        require(same_format, f"{path}: was written by another version of this program; only that can resume it")
        progress = Progress(**header["progress"])
        metrics_bytes = int(progress.metrics_bytes)
        numbers = all(isinstance(value, int | float) for value in dataclasses.asdict(progress).values())
        mappings = isinstance(header["config"], dict) and isinstance(header["inputs"], dict)
        intact = numbers and mappings and header.keys() >= HEADER
    except (AttributeError, KeyError, TypeError, ValueError, OSError, OverflowError, RecursionError):
        intact = False
    require(intact, f"{path}: its {TRAINING}/{VALUES} is damaged")
    metrics = path.parent / METRICS
    size = metrics.stat().st_size if metrics.is_file() else 0
    require(size >= metrics_bytes, f"{metrics}: is shorter than it was at {path.name}; the rows before it are lost")


def _check_same(point: ResumePoint, config: CheckpointedConfig, method: str) -> None:
    """Raises InputError, naming the option, unless `config` continues the checkpoint's training on as many ranks."""
    path, header, processes, precision = point.path, point.header, num_processes(), mixed_precision()
    restart = f"remove {path.parent} to start over"
    require(header["method"] == method, f"{path}: is of {header['method']}, not of {method}; {restart}")
    now = json.loads(json.dumps(redacted(dataclasses.asdict(config))))
    ignored = options_without_effect(type(config)).union(GRADE_LIMIT_OPTIONS)
    for name, then in header["config"].items():
        found = name in RESOLVED and now.get(name) is None  # from the scores, which must be those of the checkpoint
        same = name in ignored or found or now.get(name) == then
        require(same, f"{path}: was made with --{name} {then}, not {now.get(name)}; pass that, or {restart}")
    made_by = f"{path}: was made by {header['world_size']} processes, and there are {processes}"
    require(header["world_size"] == processes, f"{made_by}; launch as many, or {restart}")
    made_with = f"{path}: was made with --mixed_precision {header['mixed_precision']}, not {precision}"
    require(header["mixed_precision"] == precision, f"{made_with}; launch it so, or {restart}")


def _compare_environments(unfinished: Path) -> None:
    then, now = read_environment(unfinished), json.loads(json.dumps(environment()))
    for name in REPRODUCIBILITY_KEYS:
        if then.get(name) != now[name]:
            logger.warning("%s: %s differs from now, so the last digits may, too", unfinished / ENVIRONMENT, name)
