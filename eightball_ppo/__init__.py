"""Trains a small text classifier on a bigger model's grades by PPO and compares it with distillation.

The names of `_MODULES` are the Python API; each is imported when it is first used, so that `import eightball_ppo` takes
milliseconds and imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from eightball_ppo.models import auto_registration

if TYPE_CHECKING:
    from eightball_ppo.api import AuditResult as AuditResult
    from eightball_ppo.api import audit as audit
    from eightball_ppo.api import compare as compare
    from eightball_ppo.api import load_policy as load_policy
    from eightball_ppo.config.methods import DistillConfig as DistillConfig
    from eightball_ppo.config.methods import ExactConfig as ExactConfig
    from eightball_ppo.config.methods import GRPOConfig as GRPOConfig
    from eightball_ppo.config.methods import PPOConfig as PPOConfig
    from eightball_ppo.config.methods import RLOOConfig as RLOOConfig
    from eightball_ppo.errors import IncompleteError as IncompleteError
    from eightball_ppo.errors import InputError as InputError
    from eightball_ppo.trainers import DistillTrainer as DistillTrainer
    from eightball_ppo.trainers import ExactTrainer as ExactTrainer
    from eightball_ppo.trainers import GRPOTrainer as GRPOTrainer
    from eightball_ppo.trainers import PPOTrainer as PPOTrainer
    from eightball_ppo.trainers import RLOOTrainer as RLOOTrainer

_MODULES = {
    "trainers": ("DistillTrainer", "ExactTrainer", "GRPOTrainer", "PPOTrainer", "RLOOTrainer"),
    "config.methods": ("DistillConfig", "ExactConfig", "GRPOConfig", "PPOConfig", "RLOOConfig"),
    "api": ("AuditResult", "audit", "compare", "load_policy"),
    "errors": ("IncompleteError", "InputError"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"

auto_registration.install()


def __getattr__(name: str) -> Any:
    """The member of the API that `name` names (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_MODULE_OF, "__version__"])
