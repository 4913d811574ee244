"""The options that methods share: how anything is learned from a grader's scores, and from sampled answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eightball_ppo.config.fields import option, require
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.model import Dtype, PolicyOptions
from eightball_ppo.config.training import CheckpointedConfig, TrainingConfig

MAX_KL_COEF = 1e6  # price of KL; far above it the rewards leave float32
ScoreType = Literal["log_prob", "probability", "logit_margin"]


@dataclass
class GraderTrainingConfig(GraderConfig, TrainingConfig):
    """The terms on which anything is learned from a grader: where from, what a score is, and whom to trust."""

    sft_model_path: str = option("runs/sft", "Reference policy; trained with defaults if this default does not exist.")
    upstream_config: str | None = option(
        None,
        "Recipe (YAML) with sections sft: and reward:, by which --sft_model_path and --reward_model_path are trained "
        "where they do not exist; a --config with such sections is one.",
        affects_results=False,
    )
    score_type: ScoreType = option("log_prob", "Score made of the grader's probability p: log p, p, or log p/(1-p).")
    allow_weak_grader: bool = option(
        False, "Use a grader whose held-out accuracy is not above 0.6, or that failed its audit.", affects_results=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sft_model_path", "reward_model_path"):
            same = Path(self.output_dir).absolute() == Path(getattr(self, name)).absolute()
            require(not same, f"--output_dir {self.output_dir}: is the --{name}, which would be replaced")


@dataclass
class MethodConfig(GraderTrainingConfig):
    """What the methods share that turn a grader's scores into a better policy."""

    dtype: Dtype = option("float32", "Type of the policy's weights: float32, or bfloat16 for half the memory.")
    kl_coef: float = option(0.1, "beta: price of one nat of KL(policy || reference), in units of the score.")
    label_noise: float = option(
        0.0, "Share of the training questions whose grades are shifted to another label; results use the clean ones."
    )
    grader_call_budget: int | None = option(
        None, "Most (question, label) grades that training may look at, one call each; none: no limit."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.kl_coef >= 0, f"--kl_coef {self.kl_coef}: must not be negative; 0 switches the penalty off")
        require(
            self.kl_coef <= MAX_KL_COEF,
            f"--kl_coef {self.kl_coef}: at most {MAX_KL_COEF:g}, which already holds it still",
        )
        require(0 <= self.label_noise <= 1, f"--label_noise {self.label_noise}: a share, 0 to 1")
        budget = self.grader_call_budget
        require(budget is None or budget >= 1, f"--grader_call_budget {budget}: at least 1")


@dataclass
class RolloutConfig(PolicyOptions, CheckpointedConfig, MethodConfig):
    """What the methods share that learn from answers of their own: a look at these. Flags are those of TRL's GRPO."""

    log_completions: bool = option(
        False, "Write sampled answers with score, KL and reward to OUTPUT_DIR/completions, and print some."
    )
    num_completions_to_print: int = option(
        8, "Answers that --log_completions prints, evenly spread over the update.", affects_results=False
    )
    completions_steps: int = option(
        10,
        "Updates between two looks of --log_completions; the first and the last update are always shown.",
        affects_results=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_completions_to_print", "completions_steps"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: at least 1")
