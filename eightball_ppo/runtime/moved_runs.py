"""Finds the reference and the reward model of a run that was moved together with them."""

import os
from pathlib import Path

from eightball_ppo.errors import InputError
from eightball_ppo.runtime.paths import ADAPTER_CONFIG, local_path
from eightball_ppo.runtime.run import read_config

_CHECKPOINT = ("config.json", ADAPTER_CONFIG)


def locate(name: str, run: Path) -> str:
    """Where the checkpoint that the records of `run` call `name` lies now.

    An absolute path that exists is kept. Otherwise the checkpoint lies where it did relative to the run, beside the
    run, or where `name` says, in this order: the current directory may hold another run of the same name.

    Args:
        name: A path or Hub id, as the run was given it.
        run: The run's directory now; without a `config.yaml` only its siblings are looked at.

    Returns:
        A path, or `name` if nothing was found or nothing moved.
    """
    path = Path(name).expanduser()
    if path.is_absolute() and path.exists():
        return name
    for candidate in _candidates(name, path, run.absolute()):
        if any((candidate / file).is_file() for file in _CHECKPOINT):
            return name if candidate.resolve() == path.resolve() else os.path.relpath(candidate)
    return name


def _candidates(name: str, path: Path, run: Path) -> list[Path]:
    found = []
    try:
        output_dir = read_config(run).get("output_dir")
    except InputError:
        output_dir = None
    if isinstance(output_dir, str) and path.is_absolute() == Path(output_dir).is_absolute():
        found.append(Path(os.path.normpath(run / os.path.relpath(path, output_dir))))
    if local_path(name) is not None:
        found.append(run.parent / path.name)
    return found
