"""Two versions of this repository: their directories, and environments of processes that import only one of them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextmanager
def tree_of(version: str | Path) -> Iterator[Path]:
    """The directory of a version: an existing checkout, or a temporary checkout of a commit."""
    if Path(version).is_dir():
        yield Path(version).resolve()
        return
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    with tempfile.TemporaryDirectory(prefix="tree-") as root:
        tree = Path(root).resolve() / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), str(version)], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def environment_of(*directories: Path) -> dict[str, str]:
    """The environment of a process on one thread that imports from `directories` first, before installed packages."""
    found = [*map(str, directories), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, found))}
