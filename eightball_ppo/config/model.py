"""The options of a stage that trains a policy, as far as the model itself is concerned. Names are those of TRL."""

from dataclasses import dataclass
from typing import Literal

from eightball_ppo.config.fields import option, require

SMALL_CLASSIFIER = "eightball"  # as --model_name_or_path: the small classifier, new
Dtype = Literal["float32", "bfloat16"]


@dataclass
class TrustOptions:
    """Whether code that comes with a model may run."""

    trust_remote_code: bool = option(
        False,
        "Run the Python code that comes with a model (auto_map in its config). It can do anything; read it first.",
    )


@dataclass
class LoraOptions:
    """Train LoRA adapters (arXiv:2106.09685) and the classification head instead of all weights."""

    use_peft: bool = option(False, "Train LoRA adapters and the head instead of all weights.")
    lora_r: int = option(8, "Rank of the LoRA adapters.")
    lora_alpha: int = option(16, "Scale of the LoRA adapters; the update is multiplied by alpha / r.")
    lora_target_modules: list[str] = option(
        [], "Names of the linear layers that get an adapter; by default those usual for the architecture."
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the stage that this is mixed into
        require(self.lora_r >= 1, f"--lora_r {self.lora_r}: at least 1")
        require(self.lora_alpha >= 1, f"--lora_alpha {self.lora_alpha}: at least 1")
        named = not self.lora_target_modules or self.use_peft
        require(named, f"--lora_target_modules {' '.join(self.lora_target_modules)}: needs --use_peft")


@dataclass
class PolicyOptions(LoraOptions):
    """How a policy under adapters is saved."""

    merge_adapter: bool = option(
        False, "With --use_peft: save a full model, adapters merged into its weights, and the adapter beside it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.use_peft or not self.merge_adapter, "--merge_adapter: there is nothing to merge without --use_peft"
        )
