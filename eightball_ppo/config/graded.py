"""Options that methods share: how they learn from a grader's scores, and from sampled answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from eightball_ppo.config.defaults import EPISODES, AmountByClassifier
from eightball_ppo.config.fields import AT_LEAST_1, Rule, option, require, run_option
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.model import Dtype, PolicyOptions
from eightball_ppo.config.noise import LabelNoise
from eightball_ppo.config.training import CheckpointedConfig, TrainingConfig

DEFAULT_KL_COEF = 0.1  # for raw scores, times their standard deviation over labels
MAX_KL_COEF = 1e6  # far above it the rewards leave the range of float32
ScoreType = Literal["log_prob", "probability", "logit_margin", "raw"]
STOP = Rule(lambda value: 0 < value <= 1, "must be above 0 and at most 1")
CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")
EPISODES_HELP = "Rounded up to full batches; default 40 a text, at least 48000; encoder 20 a text, at least 2400."
KL_COEF = Rule(lambda value: value >= 0, "must not be negative; 0 switches the penalty off")


@dataclass
class GraderTrainingConfig(GraderConfig, TrainingConfig):
    """Options of any stage trained on grader scores: reference model, score type, weak-grader override."""

    sft_model_path: str = option("runs/sft", "Reference policy; trained with defaults if this default does not exist.")
    upstream_config: str | None = run_option(None, "Recipe (YAML) with sections sft: and reward: for missing models.")
    score_type: ScoreType | None = option(
        None, "Score made of the grader's probability p: log p (default), p, log p/(1-p); raw: a function's score."
    )
    allow_weak_grader: bool = run_option(False, "Use a grader of accuracy <= 0.6, or that failed its audit.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sft_model_path", "reward_model_path"):
            same = Path(self.output_dir).absolute() == Path(getattr(self, name)).absolute()
            require(not same, f"--output_dir {self.output_dir}: is the --{name}, which would be replaced")


@dataclass
class MethodConfig(GraderTrainingConfig):
    """Options of every method that turns grader scores into a better policy."""

    dtype: Dtype = option("float32", "Type of the policy's weights: float32, or bfloat16 for half the memory.")
    kl_coef: float | None = option(
        None, "beta, score units per nat of KL(policy || reference); default 0.1, raw: 0.1 of their spread.", KL_COEF
    )
    label_noise: str = option("0.0", "RATE[:row|cell|call]: wrong training grades; results use clean ones.")
    grader_call_budget: int | None = option(None, "Limit on the (question, label) grades of training.", AT_LEAST_1)

    def __post_init__(self) -> None:
        self.label_noise = str(LabelNoise.parse(self.label_noise))  # from Python also a number
        raters = self.noise.rate and self.grader.startswith("rater:") and self.grader.endswith(":call")
        require(not raters, f"--label_noise {self.label_noise}: --grader {self.grader} is noise already; leave one out")
        super().__post_init__()
        fits = self.score_type == "raw" or self.beta <= MAX_KL_COEF
        require(fits, f"--kl_coef {self.kl_coef}: at most {MAX_KL_COEF:g}, where the policy no longer moves")

    def with_score_type(self, raw: bool) -> Self:
        """The options for a grader that gives raw scores, or one that gives probabilities.

        Raises:
            InputError: A score type that cannot be made of what the grader gives.
        """
        kind = self.score_type or ("raw" if raw else "log_prob")
        gives = "raw scores, no probabilities" if raw else "probabilities, no raw scores"
        fix = "leave the option out" if raw else "pass log_prob, probability or logit_margin"
        require((kind == "raw") == raw, f"--score_type {kind}: --grader {self.grader} gives {gives}; {fix}")
        return replace(self, score_type=kind)

    def in_unit(self, unit: float) -> Self:
        """The options for scores that are divided by `unit`."""
        return replace(self, kl_coef=self.beta / unit)

    @property
    def noise(self) -> LabelNoise:
        """`label_noise`, parsed."""
        return LabelNoise.parse(self.label_noise)

    @property
    def differs_by_call(self) -> str:
        """The option by which the grader's answers differ from call to call; empty if they do not."""
        if self.noise.kind == "call":
            return f"--label_noise {self.label_noise}"
        raters = self.grader.startswith("rater:") and self.grader.endswith(":call")
        return f"--grader {self.grader}" if raters else ""

    @property
    def beta(self) -> float:
        """`kl_coef`, or its default."""
        return DEFAULT_KL_COEF if self.kl_coef is None else self.kl_coef


@dataclass
class EarlyStopConfig(PolicyOptions, CheckpointedConfig, MethodConfig):
    """Options that end a training early because it has nothing left to gain."""

    stop_optimum_fraction: float | None = option(
        None, "Stop at this optimum_fraction on the training questions; default: encoder 0.995, else 1 (off).", STOP
    )
    patience: int | None = option(None, "Stop after this many measurements without a rise; none: off.", AT_LEAST_1)

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule = getattr(self, "lr_scheduler_type", "constant")
        require(
            self.patience is None or schedule in CONSTANT_SCHEDULES,
            f"--patience {self.patience}: the last of the gain comes as a {schedule} learning rate falls; pass "
            "--lr_scheduler_type constant",
        )


@dataclass
class RolloutConfig(EarlyStopConfig):
    """Options of on-policy methods: logging of sampled completions. Flags are those of TRL's GRPO."""

    amounts: ClassVar[Mapping[str, AmountByClassifier]] = {"total_episodes": EPISODES}

    total_episodes: int | None = option(None, EPISODES_HELP, AT_LEAST_1)
    log_completions: bool = option(False, "Write sampled answers with score, KL and reward to OUTPUT_DIR/completions.")
    completions_steps: int = run_option(10, "Updates between two logs of --log_completions.", AT_LEAST_1)
