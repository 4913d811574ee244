"""The options of the methods that turn a grader's scores into a better policy, one dataclass each."""

from dataclasses import dataclass
from typing import Any, Literal

from eightball_ppo.config.fields import option, require
from eightball_ppo.config.graded import MethodConfig, RolloutConfig
from eightball_ppo.config.model import PolicyOptions
from eightball_ppo.config.training import Schedule, SupervisedConfig

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


@dataclass
class ReferenceConfig(MethodConfig):
    """The SFT reference as it is: what every method starts from and is compared with."""

    output_dir: str = option("runs/reference", "Directory of the finished run; it must not hold another run.")


@dataclass
class BestOfNConfig(MethodConfig):
    """The best-scored of n answers drawn from the reference, exactly. Nothing is trained: every question is asked."""

    output_dir: str = option("runs/best-of-n", "Directory of the finished run; it must not hold another run.")
    num_samples: int | None = option(
        None, "Answers drawn for each question; by default the power of 2 up to 128 with the best objective."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.num_samples is None or 1 <= self.num_samples <= 1024, f"--num_samples {self.num_samples}: 1 to 1024"
        )


@dataclass
class PPOConfig(RolloutConfig):
    """True policy gradients: TRL's PPOTrainer on any classifier. Flags are those of `trl.experimental.ppo`."""

    output_dir: str = option("runs/ppo", "Directory of the finished run; it must not hold another run.")
    total_episodes: int = option(48_000, "Answers sampled in all, over all processes; rounded up to whole batches.")
    repeats_per_epoch: int | None = option(
        None, "How often a question stands in one pass over the data; by default 2, or until a pass has 1200 episodes."
    )
    per_device_train_batch_size: int | None = option(
        None, "Episodes per update and process; by default one pass, 1200 at most."
    )
    baseline: Literal["value", "exact"] = option(
        "value",
        "What an answer is compared with: a value model, or the exact value of the policy, a sum over all labels, for "
        "which every label of every question is graded.",
    )
    num_mini_batches: int = option(8, "Minibatches, so optimizer steps, per PPO epoch; must divide the batch.")
    num_ppo_epochs: int = option(4, "Passes over each batch.")
    learning_rate: float | None = option(
        None,
        "Peak learning rate of the policy; by default 0.012, with --use_peft 0.001, divided by kl_coef where that is "
        "above 1.",
    )
    value_learning_rate: float = option(
        0.0012, "Peak learning rate of the value model; a slow critic keeps wrong answers surprising."
    )
    lr_scheduler_type: Schedule = option(
        "linear", "Shape of the learning rate over updates; linear decay to 0 reaches the optimum."
    )
    warmup_steps: int = option(0, "Updates of linear warm-up; the first of them learns nothing.")
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay.")
    adam_beta2: float = option(
        0.9, "AdamW's decay of squared gradients; PPO's shrink a hundredfold, so the usual 0.999 is too slow."
    )
    max_grad_norm: float | None = option(None, "Clip the gradient's norm at every optimizer step; none: no clipping.")
    cliprange: float = option(0.1, "Clip range of the probability ratio.")
    cliprange_value: float = option(
        10.0, "Clip range of the value, in units of the score; 10 is off for log-probabilities."
    )
    vf_coef: float = option(0.1, "Weight of the value loss.")
    whiten_rewards: bool = option(False, "Whiten rewards, too (advantages always are).")
    stop_kl: float | None = option(
        None, "End training, as a success, once the exact KL on the training questions is above this; none: never."
    )
    max_kl: float | None = option(
        None,
        "Give up with exit code 4 once the exact KL on the training questions is above this, and keep the policy with "
        "the best objective; none: never.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:
            # The optimum's logits lie score / kl_coef away from the reference's. TRL whitens that scale out of the
            # advantages, so without smaller steps a high price would be drowned in the noise of the steps themselves.
            self.learning_rate = (0.001 if self.use_peft else 0.012) / max(1.0, self.kl_coef)
        for name in ("total_episodes", "repeats_per_epoch", "num_mini_batches", "num_ppo_epochs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: at least 1")
        for name in ("learning_rate", "value_learning_rate", "weight_decay", "vf_coef"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(0 <= self.adam_beta2 < 1, f"--adam_beta2 {self.adam_beta2}: at least 0 and below 1")
        whole = self.baseline == "value" or self.grader_call_budget is None
        require(whole, "--baseline exact: takes all grades, and --grader_call_budget limits them; use --baseline value")
        require(self.cliprange > 0 and self.cliprange_value > 0, "--cliprange and --cliprange_value: must be above 0")
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            f"--max_grad_norm {self.max_grad_norm}: must be above 0",
        )
        for name in ("stop_kl", "max_kl"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} {value}: must be above 0")
        target, most = self.stop_kl, self.max_kl
        require(target is None or most is None or target < most, f"--stop_kl {target}: must be below --max_kl {most}")


@dataclass
class GroupBaselineConfig(RolloutConfig):
    """What RLOO and GRPO share: several answers to a question, each judged by the others. Flags are TRL's."""

    total_episodes: int = option(48_000, "Answers sampled in all, over all processes; rounded up to whole batches.")
    num_generations: int = option(6, "Answers to a question in one batch; each is compared with the others.")
    generation_batch_size: int | None = option(
        None, "Answers sampled at once, over all processes; by default about 1200, or all questions if they are fewer."
    )
    steps_per_generation: int = option(4, "Parts of the batch, an optimizer step each.")
    num_iterations: int = option(4, "Passes over each batch.")
    epsilon: float = option(0.05, "Clip range of the probability ratio.")
    learning_rate: float | None = option(
        None, "Peak learning rate; by default 0.01, with --use_peft 0.001, divided by kl_coef above 1."
    )
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate over optimizer steps.")
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay.")
    adam_beta2: float = option(0.9, "AdamW's decay of squared gradients; those of a policy shrink as it learns.")
    initial_temperature: float = option(
        20.0, "Temperature of the first answers, falling to 1; at 1 from the start, rare answers are never tried."
    )
    anneal_fraction: float = option(
        0.9,
        "Share of the updates over which the temperature falls to 1 and 1/beta rises from 0 to 1/kl_coef; 0 is off.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = (0.001 if self.use_peft else 0.01) / max(1.0, self.kl_coef)
        for name in ("total_episodes", "steps_per_generation", "num_iterations"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: at least 1")
        require(self.num_generations >= 2, f"--num_generations {self.num_generations}: at least 2, to compare")
        for name in ("learning_rate", "weight_decay"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(0 <= self.adam_beta2 < 1, f"--adam_beta2 {self.adam_beta2}: at least 0 and below 1")
        require(self.epsilon > 0, f"--epsilon {self.epsilon}: must be above 0")
        hot = self.initial_temperature  # above 100 the pad column would be sampled, which is no answer
        require(1 <= hot <= 100, f"--initial_temperature {hot}: 1 to 100")
        require(0 <= self.anneal_fraction <= 1, f"--anneal_fraction {self.anneal_fraction}: a share, 0 to 1")


@dataclass
class RLOOConfig(GroupBaselineConfig):
    """TRL's RLOOTrainer on any classifier: the baseline of an answer is the mean of the others."""

    output_dir: str = option("runs/rloo", "Directory of the finished run; it must not hold another run.")


@dataclass
class GRPOConfig(GroupBaselineConfig):
    """TRL's GRPOTrainer on any classifier: advantages are standardised within the answers to a question."""

    output_dir: str = option("runs/grpo", "Directory of the finished run; it must not hold another run.")
    scale_rewards: Literal["group", "batch", "none"] = option(
        "group", "What the advantages are divided by: the standard deviation of the group, the batch, or nothing."
    )
    kl_in_reward: bool = option(
        True, "Pay for KL in the reward, as PPO does; False: by TRL's own term in the loss, which learns worse."
    )


@dataclass
class DistillConfig(PolicyOptions, SupervisedConfig, MethodConfig):
    """Distillation: cross-entropy to the grader's favourite label, its distribution, or the optimum of this kl_coef."""

    output_dir: str = option("runs/distill", "Directory of the finished run; it must not hold another run.")
    preset: Literal["tuned", "original"] = option(
        "tuned", "original: threshold 0.4, AdamW 2e-5, 100 single-question steps."
    )
    target: Target = option(
        "hard", "hard: the grader's favourite; soft: its distribution; boltzmann: ref * exp(score / kl_coef) / Z."
    )
    threshold: float | None = option(
        None,
        "Keep a question if the grader's best probability reaches this; by default chosen on validation for hard "
        "targets, and 0 for the others.",
    )
    validation_fraction: float = option(0.2, "Share of the questions on which the threshold is chosen.")
    learning_rate: float = option(0.02, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    num_train_epochs: float = option(20, "Passes over the kept questions.")
    per_device_train_batch_size: int = option(16, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        if self.preset == "original":
            self._take_original()
        super().__post_init__()
        require(
            self.threshold is None or 0 <= self.threshold <= 1, f"--threshold {self.threshold}: a probability, 0 to 1"
        )
        require(0 < self.validation_fraction < 1, f"--validation_fraction {self.validation_fraction}: between 0 and 1")
        require(self.target == "hard" or self.preset == "tuned", "--preset original: distils hard targets")
        require(self.target != "boltzmann" or self.kl_coef > 0, "--target boltzmann: --kl_coef must be above 0")

    def _take_original(self) -> None:
        """The numbers of the original recipe; a flag that asks for another value is refused."""
        for name, value in ORIGINAL.items():
            asked = getattr(self, name)
            default = type(self).__dataclass_fields__[name].default
            require(
                asked in (default, value),
                f"--{name} {asked}: --preset original fixes it at {value}; drop one of the two",
            )
            setattr(self, name, value)


@dataclass
class ExactConfig(PolicyOptions, SupervisedConfig, MethodConfig):
    """The gradient of the objective itself, a sum over all labels: what a policy gradient estimates from samples."""

    output_dir: str = option("runs/exact", "Directory of the finished run; it must not hold another run.")
    anneal_fraction: float = option(
        0.8, "Share of the steps over which 1/beta rises from 0 to 1/kl_coef; 0 is off, and gets stuck."
    )
    learning_rate: float = option(0.01, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    adam_beta2: float = option(0.9, "AdamW's decay of squared gradients; those of a policy shrink as it learns.")
    num_train_epochs: float = option(400, "Passes over the questions.")
    per_device_train_batch_size: int = option(200, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.anneal_fraction <= 1, f"--anneal_fraction {self.anneal_fraction}: a share, 0 to 1")
