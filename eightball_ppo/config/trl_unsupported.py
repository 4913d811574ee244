"""TRL's PPO options that are not ours: the one value that stands, and why.

TRL's `PPOConfig` has some 150 options, a good part of which its PPOTrainer accepts and ignores, or which bias a
one-step policy in silence. Our `config.methods.PPOConfig` therefore does not inherit them: it has those that work,
and the table below says, for each of the others that a user may try, why it is refused or which single value stands.
"""

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
    "save_strategy": (None, "use --save_steps N, in updates"),
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
