"""`eightball env`: what a bug report needs, without secrets."""

import os
from importlib import metadata

from eightball_ppo.config.tools import EnvConfig
from eightball_ppo.runtime.redaction import KEY_VARIABLES, TOKEN_VARIABLES, portable, redact
from eightball_ppo.runtime.run import environment

OPTIONAL = ("gradio", "trackio", "tensorboard", "wandb", "bitsandbytes", "huggingface_hub")
SETTINGS = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU")


def run(config: EnvConfig) -> None:
    """Prints versions, machine and settings as Markdown; of keys and tokens only whether they are set."""
    found = environment()
    packages = {**found.pop("packages"), **{name: _version(name) for name in OPTIONAL}}
    found.pop("command")
    settings = {name: redact(portable(os.environ[name])) for name in SETTINGS if name in os.environ}
    settings |= {name: "set" for name in (*KEY_VARIABLES, *TOKEN_VARIABLES) if os.environ.get(name)}
    for part in (found, packages, settings):
        print("\n".join(f"- {name}: {value}" for name, value in part.items()))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
