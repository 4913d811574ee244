"""Packages that are installed for the files in them, and are never imported."""

from importlib import util
from pathlib import Path

from eightball_ppo.errors import InputError


def package_dir(package: tuple[str, str]) -> Path:
    """The directory of an installed package, which is not imported.

    Args:
        package: Name of its module, and what to install.

    Raises:
        InputError: It is not installed.
    """
    module, requirement = package
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"the package {module} is not installed: pip install {requirement}")
    return Path(spec.origin).parent
