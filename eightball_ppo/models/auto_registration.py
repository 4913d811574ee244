"""Make `transformers`' Auto classes know the small classifier, without importing transformers early.

`import eightball_ppo` must stay cheap and must still let `AutoModelForSequenceClassification.from_pretrained(policy)`
work whichever of the two packages is imported first. So registration waits, through an import hook, until
transformers' own auto modules are loaded.
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


def _register(name: str, module: Any) -> None:
    from eightball_ppo.models.configuration_eightball import EightBallConfig
    from eightball_ppo.models.configuration_recall import LookupConfig

    if name == _AUTO_CONFIG:
        for config in (EightBallConfig, LookupConfig):
            module.AutoConfig.register(config.model_type, config, exist_ok=True)
            config.register_for_auto_class()
        return
    from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
    from eightball_ppo.models.modeling_recall import LookupForSequenceClassification

    for config, model in (
        (EightBallConfig, EightBallForSequenceClassification),
        (LookupConfig, LookupForSequenceClassification),
    ):
        module.AutoModelForSequenceClassification.register(config, model, exist_ok=True)
        model.register_for_auto_class("AutoModelForSequenceClassification")


class _RegisterAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the auto modules as usual, and registers right after they have run."""

    def __init__(self) -> None:
        self._inner: dict[str, importlib.abc.Loader] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in (_AUTO_CONFIG, _AUTO_MODEL) or fullname in self._inner:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        self._inner[fullname] = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        assert module.__spec__ is not None
        module.__spec__.loader = self._inner[name]
        self._inner[name].exec_module(module)
        _register(name, module)


def install() -> None:
    """Register now where transformers' auto modules are loaded already, else as soon as they are."""
    for name in (_AUTO_CONFIG, _AUTO_MODEL):
        if name in sys.modules:
            _register(name, sys.modules[name])
    sys.meta_path.insert(0, _RegisterAfterImport())
