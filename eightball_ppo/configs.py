"""One dataclass per stage; every field here does what it says, and each is a flag and a line of YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from eightball_ppo.grader_options import GraderConfig
from eightball_ppo.options import FitConfig, LearningConfig, Schedule, StageConfig, option, require

ScoreKind = Literal["log_prob", "probability", "logit_margin"]


@dataclass
class SFTConfig(FitConfig):
    """Fine-tune the small classifier on questions with random answers: the form of an answer and nothing else."""

    output_dir: str = option("runs/sft", "Directory of the finished run; it must not hold another run.")
    tokenizer: str = option(
        "wordpiece", "wordpiece (BERT's), whitespace (the training words), or a directory or Hub id."
    )


@dataclass
class RewardConfig(FitConfig):
    """Fine-tune a BERT on what askers want to hear, then scale its temperature."""

    output_dir: str = option("runs/reward", "Directory of the finished run; it must not hold another run.")
    model_name_or_path: str = option(
        "minilm", "Encoder: minilm (packaged), a directory or a Hub id, e.g. google-bert/bert-base-uncased."
    )
    max_length: int = option(48, "Most tokens of a question, special tokens included; longer ones are cut and counted.")
    validation_fraction: float = option(0.15, "Share of the preference questions kept for the temperature.")
    use_peft: bool = option(False, "Train LoRA adapters instead of all weights; the merged model is saved.")
    lora_r: int = option(8, "Rank of the LoRA adapters.")
    lora_alpha: int = option(16, "Scale of the LoRA adapters; the update is multiplied by alpha / r.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    warmup_steps: int = option(10, "Optimizer steps of linear warm-up.")
    weight_decay: float = option(0.01, "AdamW's decoupled weight decay.")
    num_train_epochs: float = option(4, "Passes over the training questions.")
    per_device_train_batch_size: int = option(16, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_fraction < 1, f"--validation_fraction {self.validation_fraction}: between 0 and 1")
        require(self.lora_r >= 1, f"--lora_r {self.lora_r}: at least 1")


@dataclass
class GradedConfig(GraderConfig, LearningConfig):
    """What the methods share that turn a grader's scores into a better policy."""

    sft_model_path: str = option("runs/sft", "Reference policy; trained with defaults if this default does not exist.")
    score: ScoreKind = option("log_prob", "Score made of the grader's probability p: log p, p, or log p/(1-p).")
    kl_coef: float = option(0.1, "beta: price of one nat of KL(policy || reference), in units of the score.")
    allow_weak_grader: bool = option(
        False, "Use a grader whose held-out accuracy is not above 0.6, or that failed its audit."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.kl_coef >= 0, f"--kl_coef {self.kl_coef}: must not be negative; 0 switches the penalty off")
        for name in ("sft_model_path", "reward_model_path"):
            same = Path(self.output_dir).absolute() == Path(getattr(self, name)).absolute()
            require(not same, f"--output_dir {self.output_dir}: is the --{name}, which would be replaced")


@dataclass
class PPOConfig(GradedConfig):
    """True policy gradients: TRL's PPOTrainer on the small classifier. Flags are those of `trl.experimental.ppo`."""

    output_dir: str = option("runs/ppo", "Directory of the finished run; it must not hold another run.")
    total_episodes: int = option(48_000, "Answers sampled in all, over all processes; rounded up to whole batches.")
    num_generations: int = option(2, "How often a question stands in one pass over the data.")
    per_device_train_batch_size: int | None = option(
        None, "Episodes per update and process; by default one pass, 1200 at most."
    )
    num_mini_batches: int = option(8, "Minibatches, so optimizer steps, per PPO epoch; must divide the batch.")
    num_ppo_epochs: int = option(4, "Passes over each batch.")
    learning_rate: float | None = option(
        None, "Peak learning rate of the policy; by default 0.012, divided by kl_coef where that is above 1."
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:
            # The optimum's logits lie score / kl_coef away from the reference's. TRL whitens that scale out of the
            # advantages, so without smaller steps a high price would be drowned in the noise of the steps themselves.
            self.learning_rate = 0.012 / max(1.0, self.kl_coef)
        for name in ("total_episodes", "num_generations", "num_mini_batches", "num_ppo_epochs"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: at least 1")
        for name in ("learning_rate", "value_learning_rate", "weight_decay", "vf_coef"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(0 <= self.adam_beta2 < 1, f"--adam_beta2 {self.adam_beta2}: at least 0 and below 1")
        require(self.cliprange > 0 and self.cliprange_value > 0, "--cliprange and --cliprange_value: must be above 0")
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            f"--max_grad_norm {self.max_grad_norm}: must be above 0",
        )


@dataclass
class DistillConfig(FitConfig, GradedConfig):
    """Thresholded distillation: keep the grader's confident labels, drop the rest, cross-entropy."""

    output_dir: str = option("runs/distill", "Directory of the finished run; it must not hold another run.")
    preset: Literal["tuned", "original"] = option(
        "tuned", "original: threshold 0.4, AdamW 2e-5, 100 single-question steps."
    )
    threshold: float | None = option(
        None, "Keep a question if the grader's best probability reaches this; by default chosen on validation."
    )
    validation_fraction: float = option(0.2, "Share of the questions on which the threshold is chosen.")
    learning_rate: float = option(0.02, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    num_train_epochs: float = option(20, "Passes over the kept questions.")
    per_device_train_batch_size: int = option(16, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.threshold is None or 0 <= self.threshold <= 1, f"--threshold {self.threshold}: a probability, 0 to 1"
        )
        require(0 < self.validation_fraction < 1, f"--validation_fraction {self.validation_fraction}: between 0 and 1")


@dataclass
class GradeConfig(GraderConfig):
    """Fill the grade store with a grader's grades of a dataset, and export them as grades.parquet."""

    replaces: ClassVar[str] = "grade"

    output_dir: str = option("grades", "Directory for grades.parquet; grades that stand there are exported anew.")
    splits: list[str] = option(["rl", "heldout"], "Splits of the dataset to grade.")


@dataclass
class AuditConfig(GraderConfig):
    """Judge a grader against gold answers and by tricks, before anything is trained on it."""

    replaces: ClassVar[str] = "audit"

    output_dir: str = option("runs/audit", "Directory for audit.html; an audit that stands there is replaced.")
    gold: str = option("datasets/eightball/heldout.jsonl", "JSONL file of questions with the answers that were wanted.")
    audit_questions: int = option(100, "Gold questions that are asked again in variants; accuracy takes all of them.")
    min_accuracy: float = option(0.6, "Fail unless the accuracy on gold is above this; 0 is off.")
    min_kappa: float = option(0.3, "Fail unless Cohen's kappa on gold is above this; -1 is off.")
    max_flips: float = option(
        0.2, "Fail if more of the questions change their favourite under case, blanks or rewording; 1 is off."
    )
    max_order_flips: float = option(
        0.2, "Fail if more of the questions change their favourite when the options are permuted; 1 is off."
    )
    max_injection_flips: float = option(
        0.2, "Fail if an injection moves more of the questions to its label than rewording does; 1 is off."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.audit_questions >= 1, f"--audit_questions {self.audit_questions}: at least 1")
        require(-1 <= self.min_kappa <= 1, f"--min_kappa {self.min_kappa}: between -1 and 1")
        for name in ("min_accuracy", "max_flips", "max_order_flips", "max_injection_flips"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: a share, 0 to 1")
        require(
            self.dataset_name == StageConfig.dataset_name,
            f"--dataset_name {self.dataset_name}: an audit reads --gold alone; pass --gold FILE.jsonl",
        )


@dataclass
class PredictConfig:
    """Ask a trained policy."""

    question: str | None = option(None, "The question; the first argument may also be given without the flag.")
    file: str | None = option(None, "Text file with one question a line, instead of one question.")
    model_name_or_path: str = option("runs/ppo", "Policy directory or Hub id.")
    sample: bool = option(False, "Draw the answer from the policy instead of taking the most probable one.")
    seed: int = option(0, "Seed of the draw.")

    def __post_init__(self) -> None:
        require(
            (self.question is None) != (self.file is None),
            'pass either one question ("Will I be rich?") or --file FILE',
        )
