"""TRL's PPO options that are not ours: the one value that is accepted, and why.

TRL's `PPOConfig` has some 150 options. Its PPOTrainer ignores a good part of them, and others bias a one-step policy
without a warning. `config.methods.PPOConfig` has those that work; the table below names, for each of the others that a
user may try, the value that is accepted (None: no value) and the reason.
"""

_IGNORED = "TRL 1.12's PPOTrainer accepts this and ignores it"
_ONE_STEP = "an episode has one step: no effect"
_ONE_LABEL = "an answer is one label"
_NO_ADAPTER = "the policy is no multi-adapter model"
TRL_OPTIONS: dict[str, tuple[str | None, str]] = {
    "kl_estimator": ("k1", "k3 in the reward has the wrong gradient and ends below the reference (arXiv:2506.09477)"),
    "gradient_accumulation_steps": ("1", "above 1 TRL's loop steps at the wrong times; use num_mini_batches"),
    "temperature": ("1.0", "another value trains the tempered policy, not the saved one"),
    "response_length": ("1", _ONE_LABEL),
    "num_sample_generations": ("0", "its samples would change the training's; see before_after.parquet instead"),
    "save_strategy": (None, "use --save_steps N, in updates"),
    "fp16": ("False", f"{_IGNORED}; use accelerate launch --mixed_precision fp16"),
    "bf16": ("False", f"{_IGNORED}; use accelerate launch --mixed_precision bf16"),
    "gradient_checkpointing": ("False", _IGNORED),
    "logging_steps": ("1", "every update is logged"),
    "logging_strategy": ("steps", "every update is logged"),
    "max_steps": (None, f"{_IGNORED}; use --total_episodes"),
    "num_train_epochs": (None, "use --total_episodes"),
    "eval_strategy": ("no", f"{_IGNORED}; every update and the finished policy are evaluated exactly"),
    "eval_steps": (None, f"{_IGNORED}; every update is evaluated exactly"),
    "load_best_model_at_end": ("False", _IGNORED),
    "metric_for_best_model": (None, _IGNORED),
    "dataloader_num_workers": ("0", _IGNORED),
    "full_determinism": ("False", f"{_IGNORED}; the same seed gives the same bits on one machine"),
    "ddp_find_unused_parameters": (None, f"{_IGNORED}; unused parameters are frozen instead"),
    "remove_unused_columns": (None, _IGNORED),
    "data_seed": (None, f"{_IGNORED}; use --seed"),
    "torch_compile": ("False", _IGNORED),
    "auto_find_batch_size": ("False", _IGNORED),
    "missing_eos_penalty": (None, "no answer holds an end token, so it would lower every score alike"),
    "stop_token": (None, _ONE_LABEL),
    "stop_token_id": (None, _ONE_LABEL),
    "gamma": (None, _ONE_STEP),
    "lam": (None, _ONE_STEP),
    "local_rollout_forward_batch_size": (None, "the rollout is one forward pass of the complete batch"),
    "model_adapter_name": (None, _NO_ADAPTER),
    "ref_adapter_name": (None, _NO_ADAPTER),
}
