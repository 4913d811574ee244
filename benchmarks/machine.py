"""The machine of a measurement: versions, processor, threads."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "peft", "numpy"),
    *("stable-baselines3", "torchrl", "tensordict", "gymnasium"),
)


def versions() -> dict[str, str]:
    """Versions of the measured packages that are installed."""
    here = {one.metadata["Name"].lower().replace("_", "-") for one in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in here}


def machine(threads: int = 1) -> dict[str, Any]:
    """This machine, with the number of threads of a process."""
    found = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": next((line.split(":")[1].strip() for line in found if line.startswith("model name")), None),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "packages": versions(),
    }
