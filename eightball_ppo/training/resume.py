"""Resuming from a checkpoint: which one, whether it is intact and of this very run, and what training loads from it."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from eightball_ppo.config.fields import options_without_effect
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
from eightball_ppo.training.state import (
    FORMAT,
    TRAINING,
    VALUES,
    StateDict,
    Stateful,
    States,
    load_states,
    read_header,
)

logger = logging.getLogger(__name__)

HEADER = {"method", "world_size", "mixed_precision", "states"}
REPRODUCIBILITY_KEYS = ("packages", "torch_threads", "cuda")  # of environment.json: the same bits need the same values


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """An intact checkpoint of this run, and the header of its state."""

    path: Path
    header: StateDict

    @property
    def progress(self) -> Progress:
        return Progress(**self.header["progress"])

    def load(self, states: States) -> None:
        """Load each of `states`, in their order."""
        load_states(self.path / TRAINING, states)


@dataclasses.dataclass(frozen=True)
class ResumeContext:
    """What a training needs to be stopped and resumed, beside its trainer.

    Args:
        inputs: fingerprints of what the training starts from, by the words for it.
        point: the checkpoint it resumes from; None starts from the beginning.
        states: what the method has to find again, beside what every trainer carries.
        updates_before: updates that earlier trainings of the same run have made.

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
            if self.point.header["inputs"].get(name) != fingerprint:
                path = self.point.path
                raise InputError(
                    f"{path}: was made with another {name}; put the old one back, or remove {path.parent} to begin anew"
                )

    @property
    def progress(self) -> Progress | None:
        return None if self.point is None else self.point.progress

    def with_states(self, *states: tuple[str, Stateful]) -> "ResumeContext":
        """The same with more to find again."""
        return dataclasses.replace(self, states=[*self.states, *states])

    def load(self, states: States) -> None:
        """Load `states` from the checkpoint, if there is one."""
        if self.point is not None:
            self.point.load(states)


def resume_context_for_fit(
    config: SupervisedConfig, method: str, model: PreTrainedModel, texts: Sequence[str], label_ids: Sequence[int]
) -> ResumeContext:
    """How a supervised stage is stopped and resumed.

    Raises:
        InputError: `--resume_from_checkpoint` means no checkpoint, a damaged one, or one of another run.
    """
    data = json.dumps([list(texts), list(label_ids)])
    inputs = input_fingerprint("model at the start", model, "set of questions and answers", [data.encode()])
    return ResumeContext(inputs, find_resume_point(config, method))


def input_fingerprint(model_name: str, model: PreTrainedModel, data_name: str, data: Iterable[bytes]) -> dict[str, str]:
    """Fingerprints of the weights and of the data that a training starts from, under their names in messages."""
    digest = hashlib.sha256()
    for part in data:
        digest.update(part)
    return {model_name: weights_fingerprint(model), data_name: digest.hexdigest()}


def find_resume_point(config: CheckpointedConfig, method: str) -> ResumePoint | None:
    """The checkpoint that `--resume_from_checkpoint` means; None without the flag.

    Raises:
        InputError: there is none, it is damaged, or it is of another run.
    """
    name = config.resume_from_checkpoint
    if name is None:
        return None
    unfinished = staging_path(Path(config.output_dir).absolute())
    path = broadcast_from_main(
        lambda: _newest_intact(unfinished) if name == "true" else _named(name, unfinished), config.ddp_timeout
    )
    found = ResumePoint(path, read_header(path / TRAINING))
    _check_same(found, config, method)
    if is_main_process():
        logger.info("going on from %s", path)
        _compare_environments(unfinished)
    return found


def _newest_intact(unfinished: Path) -> Path:
    """The newest checkpoint that is intact; says so where that is not the newest."""
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
    raise InputError(f"{damage}; remove {unfinished} to begin anew")


def _named(name: str, unfinished: Path) -> Path:
    path = Path(name).resolve()
    if path not in [own.resolve() for own in checkpoints_in(unfinished)]:
        raise InputError(
            f"--resume_from_checkpoint {name}: no checkpoint of this run; name one of {unfinished}, or say true"
        )
    try:
        _check_intact(path)
    except InputError as error:
        raise InputError(f"{error}; say true to go on from another, or remove {unfinished} to begin anew") from None
    return path


def _check_intact(path: Path) -> None:
    """Raises InputError unless the checkpoint and the metrics before it are as they were written."""
    verify_checksums(path)
    damage = InputError(f"{path}: its {TRAINING}/{VALUES} is damaged")
    try:
        header = read_header(path / TRAINING)
        written_as = header["format"]
    except (KeyError, TypeError, ValueError):
        raise damage from None
    if written_as != FORMAT:
        raise InputError(f"{path}: was written by another version of this program, and only that can go on with it")
    try:
        Progress(**header["progress"])
        intact = isinstance(header["config"], dict) and isinstance(header["inputs"], dict) and header.keys() >= HEADER
    except (KeyError, TypeError):
        intact = False
    if not intact:
        raise damage
    metrics, needed = path.parent / METRICS, header["progress"]["metrics_bytes"]
    if needed and (not metrics.is_file() or metrics.stat().st_size < needed):
        raise InputError(f"{metrics}: is shorter than it was at {path.name}; the rows before it are lost")


def _check_same(found: ResumePoint, config: CheckpointedConfig, method: str) -> None:
    """Raises InputError, naming the option, unless `config` trains what was trained then, by as many processes."""
    begin = f"remove {found.path.parent} to begin anew"
    if found.header["method"] != method:
        raise InputError(f"{found.path}: is of {found.header['method']}, not of {method}; {begin}")
    now = json.loads(json.dumps(redacted(dataclasses.asdict(config))))
    free = options_without_effect(type(config)).union(GRADE_LIMIT_OPTIONS)
    for name, then in found.header["config"].items():
        if name not in free and now.get(name) != then:
            raise InputError(f"{found.path}: was made with --{name} {then}, not {now.get(name)}; go on so, or {begin}")
    if found.header["world_size"] != num_processes():
        raise InputError(
            f"{found.path}: was made by {found.header['world_size']} processes, and there are {num_processes()}; "
            f"launch as many as then, or {begin}"
        )
    if (then := found.header["mixed_precision"]) != (precision := mixed_precision()):
        raise InputError(
            f"{found.path}: was made with --mixed_precision {then}, not {precision}; launch it so, or {begin}"
        )


def _compare_environments(unfinished: Path) -> None:
    then, now = read_environment(unfinished), json.loads(json.dumps(environment()))
    for name in REPRODUCIBILITY_KEYS:
        if then.get(name) != now[name]:
            logger.warning("%s: %s differs from now, so the last digits may, too", unfinished / ENVIRONMENT, name)
