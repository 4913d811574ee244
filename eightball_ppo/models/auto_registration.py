"""Registers our classifiers with `transformers`' Auto classes, without importing transformers early.

`import eightball_ppo` must be fast, and `AutoModelForSequenceClassification.from_pretrained(policy)` must work
whichever of the two packages is imported first. So registration waits, through an import hook, until transformers' own
auto modules are loaded.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_AUTO_CONFIG = "transformers.models.auto.configuration_auto"
_AUTO_MODEL = "transformers.models.auto.modeling_auto"
_AUTO = (_AUTO_CONFIG, _AUTO_MODEL)


def _register(name: str, module: Any) -> None:
    from eightball_ppo.models.configuration_eightball import EightBallConfig
    from eightball_ppo.models.configuration_lookup import LookupConfig
    from eightball_ppo.models.configuration_mean_pooled import MeanPooledConfig

    if name == _AUTO_CONFIG:
        for config in (EightBallConfig, LookupConfig, MeanPooledConfig):
            module.AutoConfig.register(config.model_type, config, exist_ok=True)
            config.register_for_auto_class()
        return
    from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
    from eightball_ppo.models.modeling_lookup import LookupForSequenceClassification
    from eightball_ppo.models.modeling_mean_pooled import MeanPooledForSequenceClassification

    ours = (EightBallForSequenceClassification, LookupForSequenceClassification, MeanPooledForSequenceClassification)
    for model in ours:
        module.AutoModelForSequenceClassification.register(model.config_class, model, exist_ok=True)
        model.register_for_auto_class("AutoModelForSequenceClassification")


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Finds the auto modules as usual, and registers our classifiers right after they have run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of an auto module; None for any other module."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if fullname in _AUTO else None
        loader: Any = spec and spec.loader
        if loader is None:
            return None
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(fullname, module)

        loader.exec_module = execute_and_register
        return spec


def install() -> None:
    """Registers now if transformers' auto modules are loaded already, else as soon as they are."""
    for name in _AUTO:
        if name in sys.modules:
            _register(name, sys.modules[name])
    sys.meta_path.insert(0, _RegisterAfterImport())
