"""One dataclass per stage. Names and defaults follow TRL and transformers; every field here does what it says.

TRL's `PPOConfig` has some 150 options, a good part of which its PPOTrainer accepts and ignores, or which bias a
one-step policy in silence. `PPOConfig` below therefore does not inherit them: it has those that work, and `TRL_OPTIONS`
says, for each of the others that a user may try, why it is refused or which single value stands.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eightball_ppo.errors import InputError
from eightball_ppo.labels import EIGHTBALL_LABELS

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]
ScoreKind = Literal["log_prob", "probability", "logit_margin"]


def option(default, help: str):
    """A dataclass field whose help text becomes the flag's."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass
class StageConfig:
    """What every training stage has."""

    output_dir: str = option("", "Directory of the finished run; it must not hold another run.")
    overwrite_output_dir: bool = option(False, "Replace a run that stands in output_dir, once the new one is whole.")
    dataset_name: str = option("datasets/eightball", "Directory with one JSONL file per split, or a Hub dataset id.")
    text_column: str = option("question", "Column with the text to classify.")
    label_column: str = option("answer", "Column with the label's name.")
    labels: list[str] = option(list(EIGHTBALL_LABELS), "The K label names, in the order of their ids.")
    max_length: int = option(32, "Most tokens of a question, special tokens included; longer ones are cut and counted.")
    seed: int = option(0, "Seed of torch, numpy and python.")
    report_to: str = option("none", "Tracker that transformers logs to: none, trackio, tensorboard, wandb, all ...")
    disable_tqdm: bool = option(False, "No progress bars.")

    def __post_init__(self) -> None:
        require(bool(self.output_dir.strip()), "--output_dir: empty; name the directory of the run")
        require(self.max_length >= 3, f"--max_length {self.max_length}: at least 3 (start, one token, end)")
        require(0 <= self.seed < 2**31, f"--seed {self.seed}: between 0 and {2**31 - 1}")
        for name, value in vars(self).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            require(finite, f"--{name} {value}: must be a finite number")


@dataclass
class FitConfig(StageConfig):
    """A stage that fits a classifier to labels with `transformers.Trainer`."""

    learning_rate: float = option(1e-3, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("constant", "Shape of the learning rate: constant, linear, cosine ...")
    warmup_steps: int = option(0, "Optimizer steps of linear warm-up.")
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay; 0 makes it Adam.")
    num_train_epochs: float = option(10, "Passes over the training questions.")
    per_device_train_batch_size: int = option(2, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.learning_rate > 0, f"--learning_rate {self.learning_rate}: must be above 0")
        require(self.num_train_epochs > 0, f"--num_train_epochs {self.num_train_epochs}: must be above 0")
        require(self.per_device_train_batch_size >= 1, "--per_device_train_batch_size: at least 1")
        require(self.weight_decay >= 0, f"--weight_decay {self.weight_decay}: must not be negative")


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
class GradedConfig(StageConfig):
    """What the methods share that turn a grader's scores into a better policy."""

    sft_model_path: str = option("runs/sft", "Reference policy; trained with defaults if this default does not exist.")
    reward_model_path: str = option(
        "runs/reward", "Reward model of grader bert; trained with defaults if this default does not exist."
    )
    grader: str = option("bert", "Who scores answers: bert (the reward model), random-head[:SEED], rule:LABEL.")
    score: ScoreKind = option("log_prob", "Score made of the grader's probability p: log p, p, or log p/(1-p).")
    kl_coef: float = option(0.1, "beta: price of one nat of KL(policy || reference), in units of the score.")
    allow_weak_grader: bool = option(False, "Use a grader whose held-out accuracy is not above 0.6.")

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


# Options of TRL's PPOConfig that are not fields above: (the one value that stands or None, why).
_NOT_READ = "TRL 1.12's PPOTrainer accepts this and ignores it"
TRL_OPTIONS: dict[str, tuple[str | None, str]] = {
    "kl_estimator": (
        "k1",
        "k3 inside the reward has the wrong gradient and ends below the reference (arXiv:2506.09477)",
    ),
    "gradient_accumulation_steps": (
        "1",
        "above 1 TRL's loop steps at the wrong times; num_mini_batches splits the batch",
    ),
    "temperature": ("1.0", "another value trains the tempered policy, not the saved one"),
    "response_length": ("1", "an answer is one label"),
    "num_sample_generations": (
        "0",
        "its samples are drawn from the training's random numbers; see before_after.parquet instead",
    ),
    "save_strategy": ("no", "the finished policy is saved once, whole"),
    "fp16": ("False", f"{_NOT_READ}; use accelerate launch --mixed_precision fp16"),
    "bf16": ("False", f"{_NOT_READ}; use accelerate launch --mixed_precision bf16"),
    "gradient_checkpointing": ("False", f"{_NOT_READ}"),
    "logging_steps": ("1", "every update is logged"),
    "logging_strategy": ("steps", "every update is logged"),
    "max_steps": (None, f"{_NOT_READ}; use --total_episodes"),
    "num_train_epochs": (None, "use --total_episodes"),
    "eval_strategy": ("no", f"{_NOT_READ}; every update and the finished policy are evaluated exactly"),
    "eval_steps": (None, f"{_NOT_READ}; every update is evaluated exactly"),
    "load_best_model_at_end": ("False", _NOT_READ),
    "metric_for_best_model": (None, _NOT_READ),
    "resume_from_checkpoint": (None, _NOT_READ),
    "save_steps": (None, "the finished policy is saved once, whole"),
    "save_total_limit": (None, "the finished policy is saved once, whole"),
    "dataloader_num_workers": ("0", _NOT_READ),
    "full_determinism": ("False", f"{_NOT_READ}; the same seed gives the same bits on one machine"),
    "ddp_find_unused_parameters": (None, f"{_NOT_READ}; unused parameters are frozen instead"),
    "remove_unused_columns": (None, _NOT_READ),
    "data_seed": (None, f"{_NOT_READ}; use --seed"),
    "torch_compile": ("False", _NOT_READ),
    "auto_find_batch_size": ("False", _NOT_READ),
    "missing_eos_penalty": (None, "no answer holds an end token, so it would lower every score alike"),
    "stop_token": (None, "an answer is one label"),
    "stop_token_id": (None, "an answer is one label"),
    "gamma": (None, "an episode has one step: no effect"),
    "lam": (None, "an episode has one step: no effect"),
    "local_rollout_forward_batch_size": (None, "the rollout is one forward pass of the whole batch"),
    "model_adapter_name": (None, "the policy is no multi-adapter model"),
    "ref_adapter_name": (None, "the policy is no multi-adapter model"),
}
