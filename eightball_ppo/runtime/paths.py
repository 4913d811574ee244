"""Where a name given by the user points to: a local directory or a Hugging Face Hub id."""

import os
from pathlib import Path

ADAPTER = "adapter"  # in a run's directory: LoRA adapters that were merged into the model beside it
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_BASE = "base.json"  # beside adapters: the fingerprint of the weights that they were trained on
# of our defaults and documents: missing in another working directory, they are still no Hub ids
OUR_FOLDERS = ("datasets", "runs", "models", "grades")


DATA_ENDINGS = (".jsonl", ".csv", ".parquet", ".json")


def local_path(name: str) -> Path | None:
    """The local path that `name` means, whether or not it exists, or None where it can only be a Hub id.

    A name is local if it exists, starts like a path (`.`, `/`, `~`), has more than one `/`, ends like a data file, its
    first part is a directory here, or it lies in one of the folders of this project; `google-bert/bert-base-uncased` is
    a Hub id.
    """
    path = Path(os.path.expanduser(name))
    like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(DATA_ENDINGS)
    if like_a_path or path.exists():
        return path
    first = path.parts[0]
    return path if len(path.parts) > 1 and (first in OUR_FOLDERS or Path(first).is_dir()) else None


def resolves_to(file: Path) -> Path:
    """Where `file` lies, links followed; of links that form a circle, somewhere in it."""
    return Path(os.path.realpath(file))


def stays_inside(file: Path, directory: Path) -> bool:
    """Whether `file` of `directory` is, links followed, a file or folder in it.

    A blob of a snapshot in the Hub's cache counts, too: the files of a snapshot are links by design.
    """
    home, target = resolves_to(directory), resolves_to(file)
    cached = home.parent.name == "snapshots" and target.parent == home.parents[1] / "blobs"
    return (target.is_relative_to(home) or cached) and (target.is_file() or target.is_dir())
