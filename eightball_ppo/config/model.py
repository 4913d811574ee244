"""The options of a stage that trains a policy, as far as the model itself is concerned. Names are those of TRL."""

from dataclasses import dataclass
from typing import Literal

from eightball_ppo.config.fields import AT_LEAST_1, option, require

SMALL_CLASSIFIER = "eightball"  # as --model_name_or_path: the small classifier, new
Dtype = Literal["float32", "bfloat16"]


@dataclass
class TrustOptions:
    """Whether code that comes with a model may run."""

    trust_remote_code: bool = option(False, "Run Python code that comes with a model; it can do anything: read it.")


@dataclass
class LoraOptions:
    """Train LoRA adapters (arXiv:2106.09685) and the classification head instead of all weights."""

    use_peft: bool = option(False, "Train LoRA adapters and the head instead of all weights.")
    lora_r: int = option(8, "Rank of the LoRA adapters.", AT_LEAST_1)
    lora_alpha: int = option(16, "Scale of the LoRA adapters; the update is multiplied by alpha / r.", AT_LEAST_1)
    lora_target_modules: list[str] = option([], "Linear layers that get an adapter; default: the architecture's usual.")

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the stage that this is mixed into
        named = not self.lora_target_modules or self.use_peft
        require(named, f"--lora_target_modules {' '.join(self.lora_target_modules)}: needs --use_peft")


@dataclass
class PolicyOptions(LoraOptions):
    """Which weights of a policy train, and how one with adapters is saved."""

    freeze_encoder: bool | None = option(
        None, "Train the head alone, on features computed once; default: as for the reference."
    )
    calibrate: bool = option(
        False, "Fit a temperature on a tenth of the texts, kept back; divide the last layer by it."
    )
    merge_adapter: bool = option(False, "With --use_peft: save a full model, adapters merged, and the adapter beside.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.use_peft or not self.merge_adapter, "--merge_adapter: nothing to merge without --use_peft")
        require(not (self.freeze_encoder and self.use_peft), "--freeze_encoder: nothing is left to adapt by --use_peft")
        if self.calibrate:
            whole = getattr(self, "grader_call_budget", None) is None
            require(
                whole, "--calibrate: needs whole grades of texts that are not learned from, so no --grader_call_budget"
            )
            differs = getattr(self, "differs_by_call", "")
            require(not differs, f"--calibrate: needs grades that stay, not {differs}")
