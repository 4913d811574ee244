"""Going on from a checkpoint: which one, whether it is whole and of this very run, and how a training is put back."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from eightball_ppo.config.fields import free_options
from eightball_ppo.config.grader import LEAVING_OUT
from eightball_ppo.config.training import CheckpointedConfig, FitConfig
from eightball_ppo.errors import InputError
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.runtime.atomic_io import check_seal
from eightball_ppo.runtime.distributed import from_main_process, is_main_process, num_processes
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.progress import METRICS, Progress, checkpoints_in, unfinished_path
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import ENVIRONMENT, environment, finite, read_environment
from eightball_ppo.training.checkpoint import FORMAT, TRAINING, Origin
from eightball_ppo.training.state import Part, State, read_parts, read_values

logger = logging.getLogger(__name__)

LIKE = ("packages", "torch_threads", "cuda")  # of environment.json: what must be the same for the same bits


@dataclasses.dataclass(frozen=True)
class Resumption:
    """A whole checkpoint of this run, and the plain values in it."""

    path: Path
    values: State

    @property
    def progress(self) -> Progress:
        return Progress(**self.values["progress"])

    def require(self, origin: Origin) -> None:
        """Raises InputError unless training starts from what it started from then."""
        for name, fingerprint in origin.items():
            if self.values["origin"].get(name) != fingerprint:
                raise InputError(
                    f"{self.path}: was made with another {name}; put the old one back, or remove {self.path.parent} to "
                    "begin anew"
                )

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Put `parts` back to where they were."""
        for name, state in read_parts(self.path / TRAINING, parts).items():
            parts[name].restore(state)


def resumption(config: CheckpointedConfig, method: str) -> Resumption | None:
    """The checkpoint that `--resume_from_checkpoint` means; None without the flag.

    Raises:
        InputError: there is none, it is damaged, or it is of another run.
    """
    if config.resume_from_checkpoint is None:
        return None
    wanted = config.resume_from_checkpoint
    unfinished = unfinished_path(Path(config.output_dir).absolute())
    path = from_main_process(
        lambda: _newest_whole(unfinished) if wanted == "true" else _named(wanted, unfinished), config.ddp_timeout
    )
    found = Resumption(path, read_values(path / TRAINING))
    _check_same(found, config, method)
    if is_main_process():
        logger.info("going on from %s", path)
        _compare_environments(unfinished)
    return found


def _newest_whole(unfinished: Path) -> Path:
    """The newest checkpoint that is whole; says so where that is not the newest."""
    damage: InputError | None = None
    for path in reversed(checkpoints_in(unfinished)):
        try:
            _check_whole(path)
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
        _check_whole(path)
    except InputError as error:
        raise InputError(f"{error}; say true to go on from another, or remove {unfinished} to begin anew") from None
    return path


def _check_whole(path: Path) -> None:
    """Raises InputError unless the checkpoint and the metrics before it are as they were written."""
    check_seal(path)
    values = read_values(path / TRAINING)
    if values["format"] != FORMAT:
        raise InputError(f"{path}: was written by another version of this program, and only that can go on with it")
    metrics, needed = path.parent / METRICS, values["progress"]["metrics_bytes"]
    if needed and (not metrics.is_file() or metrics.stat().st_size < needed):
        raise InputError(f"{metrics}: is shorter than it was at {path.name}; the rows before it are lost")


def _check_same(found: Resumption, config: CheckpointedConfig, method: str) -> None:
    """Raises InputError, naming the option, unless `config` trains what was trained then, by as many processes."""
    begin = f"remove {found.path.parent} to begin anew"
    if found.values["method"] != method:
        raise InputError(f"{found.path}: is of {found.values['method']}, not of {method}; {begin}")
    now = json.loads(json.dumps(redacted(dataclasses.asdict(config))))
    free = free_options(type(config)).union(LEAVING_OUT)
    for name, then in found.values["config"].items():
        if name not in free and now.get(name) != then:
            raise InputError(f"{found.path}: was made with --{name} {then}, not {now.get(name)}; go on so, or {begin}")
    if found.values["world_size"] != num_processes():
        raise InputError(
            f"{found.path}: was made by {found.values['world_size']} processes, and there are {num_processes()}; "
            f"launch as many as then, or {begin}"
        )

    if (then := found.values["mixed_precision"]) != (precision := mixed_precision()):
        raise InputError(
            f"{found.path}: was made with --mixed_precision {then}, not {precision}; launch it so, or {begin}"
        )


def _compare_environments(unfinished: Path) -> None:
    then, now = read_environment(unfinished), json.loads(json.dumps(environment()))
    for name in LIKE:
        if then.get(name) != now[name]:
            logger.warning("%s: %s differs from now, so the last digits may, too", unfinished / ENVIRONMENT, name)


@dataclasses.dataclass(frozen=True)
class Keeping:
    """Checkpoints of a fit: what it starts from, where it goes on, what else belongs to it, and how many updates other
    fits of the same run have made before it."""

    origin: Origin
    resumed: Resumption | None = None
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    before: int = 0

    @property
    def progress(self) -> Progress | None:
        return None if self.resumed is None else self.resumed.progress


def keeping_fit(
    config: FitConfig, method: str, model: PreTrainedModel, texts: Sequence[str], label_ids: Sequence[int]
) -> Keeping:
    """How a supervised stage keeps checkpoints, and the one that it goes on from.

    Raises:
        InputError: `--resume_from_checkpoint` means none, a damaged one, or one of another run.
    """
    origin, resumed = origin_of_fit(model, texts, label_ids), resumption(config, method)
    if resumed is not None:
        resumed.require(origin)
    return Keeping(origin, resumed)


def origin_of_fit(model: PreTrainedModel, texts: Sequence[str], label_ids: Sequence[int]) -> Origin:
    """What a supervised stage starts from."""
    digest = hashlib.sha256(json.dumps([list(texts), list(label_ids)]).encode())
    return {"model at the start": weights_fingerprint(model), "set of questions and answers": digest.hexdigest()}


class TrainerProgress(TrainerCallback):
    """TRL's own account of a training, which its `train()` forgets when it begins: put back right then."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self._then: State | None = None

    def state(self) -> State:
        state = self.trainer.state
        return {
            "global_step": state.global_step,
            "episode": state.episode,
            "epoch": state.epoch,
            "max_steps": state.max_steps,
            "log_history": finite(state.log_history),
        }

    def restore(self, state: State) -> None:
        self._then = state
        self.trainer.args.num_total_batches = state["max_steps"] - state["global_step"]
        self.trainer.dataloader.next_update = state["global_step"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (then := self._then) is not None:
            state.global_step, state.episode, state.epoch = then["global_step"], then["episode"], then["epoch"]
            state.max_steps, state.log_history = then["max_steps"], then["log_history"]


class Late(TrainerCallback):
    """A part that is put back last of all when training begins: nothing may draw after the random numbers."""

    def __init__(self, part: Part):
        self.part = part
        self._then: State | None = None

    def state(self) -> State:
        return self.part.state()

    def restore(self, state: State) -> None:
        self._then = state

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._then is not None:
            self.part.restore(self._then)
