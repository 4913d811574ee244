"""The options of the methods that turn grader scores into a better policy, one dataclass each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from eightball_ppo.config.defaults import STOP_OPTIMUM_FRACTION, Amount, AmountByClassifier, ByClassifier
from eightball_ppo.config.fields import (
    AT_LEAST_1,
    DECAY_RATE,
    NOT_NEGATIVE,
    OPEN_SHARE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    Rule,
    option,
    require,
)
from eightball_ppo.config.graded import EarlyStopConfig, MethodConfig, RolloutConfig
from eightball_ppo.config.model import PolicyOptions
from eightball_ppo.config.training import EPOCHS, Schedule, SupervisedConfig

# The original experiment: one question a step, AdamW 2e-5, skip where the grader's best is below 0.4.
ORIGINAL: dict[str, Any] = {
    "threshold": 0.4,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.01,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
}
Target = Literal["hard", "soft", "boltzmann"]
NUM_SAMPLES = Rule(lambda value: 1 <= value <= 2**53, "must be 1 to 2^53")
GROUP_SIZE = Rule(lambda value: value >= 2, "must be at least 2, to compare")


@dataclass
class ReferenceConfig(MethodConfig):
    """The SFT reference as it is: what every method starts from and is compared with."""

    output_dir: str = option("runs/reference", "Directory of the finished run; it must not hold another run.")


@dataclass
class BestOfNConfig(MethodConfig):
    """The best-scored of n answers drawn from the reference, exactly. Nothing is trained; every question is graded."""

    output_dir: str = option("runs/best-of-n", "Directory of the finished run; it must not hold another run.")
    num_samples: int | None = option(None, "Answers drawn per question; default: the best power of 2.", NUM_SAMPLES)


@dataclass
class BaselineConfig(MethodConfig):
    """A logistic regression on something simple that is read of a text, fitted to the grader's favourite labels."""

    output_dir: str = option("runs/baseline", "Directory of the finished run; it must not hold another run.")
    features: Literal["words", "characters", "encoder"] = option("words", "What is read of a text.")


@dataclass
class PPOConfig(RolloutConfig):
    """Policy gradients: TRL's PPOTrainer on any classifier. Flags are those of `trl.experimental.ppo`."""

    by_classifier: ClassVar[Mapping[str, ByClassifier]] = {
        "learning_rate": ByClassifier(0.024, 0.001, 5e-5, 0.001, 0.04),
        "weight_decay": ByClassifier(0.0, 0.0, 0.0, 0.0, 0.03),
        "num_ppo_epochs": ByClassifier(4, 4, 1, 2, 2),
        "cliprange": ByClassifier(0.1, 0.1, 0.2, 0.2, 0.1),
        "stop_optimum_fraction": STOP_OPTIMUM_FRACTION,
    }

    output_dir: str = option("runs/ppo", "Directory of the finished run; it must not hold another run.")
    repeats_per_epoch: int | None = option(None, "Repeats of a question in one pass over the data.", AT_LEAST_1)
    per_device_train_batch_size: int | None = option(None, "Episodes per update; default: one pass, 1200 at most.")
    baseline: Literal["value", "exact"] = option("value", "value: a value model; exact: the policy's exact value.")
    num_mini_batches: int = option(8, "Minibatches, so optimizer steps, per PPO epoch.", AT_LEAST_1)
    num_ppo_epochs: int | None = option(
        None, "Passes over each batch; default 4, encoder 1, its adapters or head 2.", AT_LEAST_1
    )
    learning_rate: float | None = option(
        None, "Peak; default 0.024, head 0.04, LoRA 0.001, encoder 5e-5, less above a beta of 1.", NOT_NEGATIVE
    )
    value_learning_rate: float = option(0.0012, "Peak learning rate of the value model.", NOT_NEGATIVE)
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rates over updates.")
    warmup_steps: int = option(0, "Updates of linear warm-up; the first of them learns nothing.")
    weight_decay: float | None = option(
        None, "AdamW's decoupled weight decay; default 0, frozen encoder 0.03.", NOT_NEGATIVE
    )
    adam_beta2: float = option(0.9, "AdamW's decay of squared gradients; low, since they shrink.", DECAY_RATE)
    max_grad_norm: float | None = option(None, "Clip the gradient norm at every step; none: no clipping.", POSITIVE)
    cliprange: float | None = option(None, "Clip range of the probability ratio; default 0.1, encoder 0.2.", POSITIVE)
    cliprange_value: float = option(10.0, "Clip range of the value, in units of the score.", POSITIVE)
    vf_coef: float = option(0.1, "Weight of the value loss.", NOT_NEGATIVE)
    whiten_rewards: bool = option(False, "Whiten rewards, too (advantages always are).")
    stop_kl: float | None = option(None, "Stop, as a success, at this exact KL on the training questions.", POSITIVE)
    max_kl: float | None = option(None, "Fail with exit code 4 at this exact KL; keep the best policy.", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        payable = self.baseline == "value" or (self.grader_call_budget is None and not self.differs_by_call)
        lacks = self.differs_by_call or "--grader_call_budget"
        require(payable, f"--baseline exact: needs all grades, so no {lacks}; use --baseline value")
        stop, limit = self.stop_kl, self.max_kl
        require(stop is None or limit is None or stop < limit, f"--stop_kl {stop}: must be below --max_kl {limit}")


@dataclass
class GroupBaselineConfig(RolloutConfig):
    """Options of RLOO and GRPO: several answers to a question, each compared with the others. Flags are TRL's."""

    by_classifier: ClassVar[Mapping[str, ByClassifier]] = {
        "learning_rate": ByClassifier(0.01, 0.001, 5e-5, 0.001, 0.02),
        "stop_optimum_fraction": STOP_OPTIMUM_FRACTION,
    }

    num_generations: int = option(6, "Answers to a question in one batch.", GROUP_SIZE)
    generation_batch_size: int | None = option(None, "Answers sampled at once, over all processes; default about 1200.")
    steps_per_generation: int = option(4, "Parts of the batch, an optimizer step each.", AT_LEAST_1)
    num_iterations: int = option(4, "Passes over each batch.", AT_LEAST_1)
    epsilon: float = option(0.05, "Clip range of the probability ratio.", POSITIVE)
    learning_rate: float | None = option(
        None, "Peak; default 0.01, LoRA 0.001, encoder 5e-5, / max(1, beta).", NOT_NEGATIVE
    )
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate over optimizer steps.")
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay.", NOT_NEGATIVE)
    adam_beta2: float = option(0.9, "AdamW's decay of squared gradients.", DECAY_RATE)
    anneal_fraction: float = option(0.0, "Share of updates in which temperature and beta fall; 0: none.", SHARE)


@dataclass
class RLOOConfig(GroupBaselineConfig):
    """TRL's RLOOTrainer on any classifier: the baseline of an answer is the mean of the others."""

    output_dir: str = option("runs/rloo", "Directory of the finished run; it must not hold another run.")


@dataclass
class GRPOConfig(GroupBaselineConfig):
    """TRL's GRPOTrainer on any classifier: advantages are standardised within the answers to a question."""

    output_dir: str = option("runs/grpo", "Directory of the finished run; it must not hold another run.")
    scale_rewards: Literal["group", "batch", "none"] = option("group", "Whose standard deviation divides advantages.")
    kl_in_reward: bool = option(True, "KL penalty in the reward, as in PPO; False: TRL's own term in the loss.")


@dataclass
class DistillConfig(PolicyOptions, SupervisedConfig, MethodConfig):
    """Distillation: cross-entropy to the grader's top label, its distribution, or the optimum of this kl_coef."""

    by_classifier: ClassVar[Mapping[str, ByClassifier]] = {
        "learning_rate": ByClassifier(0.01, 0.02, 1e-4, 0.001, 0.02),
        "weight_decay": ByClassifier(0.0, 0.0, 0.0, 0.0, 0.03),
    }
    amounts: ClassVar[Mapping[str, AmountByClassifier]] = {
        "num_train_epochs": AmountByClassifier(Amount(20), Amount(20, maximum=24_000))
    }

    output_dir: str = option("runs/distill", "Directory of the finished run; it must not hold another run.")
    preset: Literal["tuned", "original"] = option("tuned", "original: threshold 0.4, AdamW 2e-5, 100 questions.")
    target: Target = option("hard", "hard: top label; soft: distribution; boltzmann: ref * exp(score / kl_coef) / Z.")
    threshold: float | None = option(
        None, "Minimum grader confidence, by default chosen on validation; raw: margin, by default 0.", NOT_NEGATIVE
    )
    validation_fraction: float = option(0.2, "Share of the questions on which it is chosen.", OPEN_SHARE)
    learning_rate: float | None = option(None, "Peak; default 0.01, encoder 1e-4, its adapters 0.001.", POSITIVE)
    weight_decay: float | None = option(
        None, "AdamW's decoupled weight decay; default 0, frozen encoder 0.03.", NOT_NEGATIVE
    )
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    num_train_epochs: float | None = option(None, "Passes over the kept questions; default 20, encoder less.", EPOCHS)
    per_device_train_batch_size: int = option(16, "Questions per optimizer step and process.", AT_LEAST_1)

    def __post_init__(self) -> None:
        if self.preset == "original":
            self._apply_original()
        super().__post_init__()
        require(self.target == "hard" or self.preset == "tuned", "--preset original: distils hard targets")
        require(self.target != "boltzmann" or self.beta > 0, "--target boltzmann: --kl_coef must be above 0")

    def with_score_type(self, raw: bool) -> Self:
        """See `MethodConfig.with_score_type`; the threshold of probabilities is one, and a distribution needs a beta.

        Raises:
            InputError: As there, or a threshold above 1, or soft targets of raw scores at a KL coefficient of 0.
        """
        if not raw and self.threshold is not None:
            require(PROBABILITY.holds(self.threshold), f"--threshold {self.threshold}: {PROBABILITY.message}")
        soft = raw and self.target == "soft"
        require(not soft or self.beta > 0, "--target soft: of raw scores needs a --kl_coef above 0")
        return super().with_score_type(raw)

    def _apply_original(self) -> None:
        for name, value in ORIGINAL.items():
            given, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            fits = given in (default, value)
            require(fits, f"--{name} {given}: --preset original fixes it at {value}; drop one of the two")
            setattr(self, name, value)


@dataclass
class ExactConfig(SupervisedConfig, EarlyStopConfig):
    """The gradient of the objective itself, a sum over all labels: what a policy gradient estimates from samples."""

    by_classifier: ClassVar[Mapping[str, ByClassifier]] = {
        "learning_rate": ByClassifier(0.01, 0.01, 1e-4, 0.001, 0.02),
        "stop_optimum_fraction": STOP_OPTIMUM_FRACTION,
    }
    amounts: ClassVar[Mapping[str, AmountByClassifier]] = {
        "num_train_epochs": AmountByClassifier(Amount(200), Amount(100, maximum=24_000))
    }

    output_dir: str = option("runs/exact", "Directory of the finished run; it must not hold another run.")
    anneal_fraction: float = option(0.8, "Share of steps in which beta falls to kl_coef; 0: none, worse.", SHARE)
    learning_rate: float | None = option(None, "Peak; default 0.01, encoder 1e-4, its adapters 0.001.", POSITIVE)
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    adam_beta2: float = option(0.9, "AdamW's decay of squared gradients; low, since they shrink.", DECAY_RATE)
    num_train_epochs: float | None = option(None, "Passes over the questions; default 200, encoder 100.", EPOCHS)
    per_device_train_batch_size: int = option(200, "Questions per optimizer step and process.", AT_LEAST_1)
