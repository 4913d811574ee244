"""Where a name given by the user points to: a local directory or a Hugging Face Hub id."""

import os
from pathlib import Path


def local_path(name: str) -> Path | None:
    """The local path that `name` means, whether or not it exists, or None where it can only be a Hub id.

    A name is local if it exists, starts like a path (`.`, `/`, `~`), has more than one `/`, or its first part is a
    directory here; `google-bert/bert-base-uncased` is a Hub id unless such a directory stands in the way.
    """
    path = Path(os.path.expanduser(name))
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return path
    return path if len(path.parts) > 1 and Path(path.parts[0]).is_dir() else None
