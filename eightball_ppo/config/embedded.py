"""The data sets and recipes that travel with the package: in the wheel inside it, in a clone beside it."""

from pathlib import Path
from typing import Literal

from eightball_ppo.errors import InputError

_PACKAGE = Path(__file__).parents[1]


def folder(kind: Literal["datasets", "recipes"]) -> Path:
    """The directory of the embedded data sets or recipes."""
    installed = _PACKAGE / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def embedded_dataset(name: str) -> Path | None:
    """The directory of the embedded data set of that name; None if there is none, or something here has that name."""
    if not name.isidentifier() or Path(name).exists():
        return None
    directory = folder("datasets") / name
    return directory if directory.is_dir() else None


def same_dataset(name: str, other: str) -> bool:
    """Whether two values of `--dataset_name` mean the same directory, file or Hub id."""
    first, second = (embedded_dataset(each) or Path(each) for each in (name, other))
    return first.resolve() == second.resolve()


def recipe_file(name: str) -> Path:
    """The recipe at the path `name`, or the embedded one of that name.

    Raises:
        InputError: A name, not a path, that is neither.
    """
    file, recipes = Path(name), folder("recipes")
    files = [*sorted(recipes.glob("*.yaml")), *sorted(recipes.glob("real/*.yaml"))]
    known = {recipe.relative_to(recipes).with_suffix("").as_posix(): recipe for recipe in files}
    if file.exists() or (name != file.stem and name not in known):
        return file
    if name not in known:
        raise InputError(f"--config {name}: neither a file nor a recipe of the package: {', '.join(known)}")
    return known[name]
