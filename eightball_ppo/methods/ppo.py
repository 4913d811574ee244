"""PPO: TRL's `PPOTrainer`, whose `train()` is unchanged, on adapters of a classifier."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.ppo_callbacks import PPOTraining
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.distributed import is_main_process, num_processes
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.guards import allow_early_stop
from eightball_ppo.training.supervised import replace_progress
from eightball_ppo.training.trackers import project, resolve_report_to, run_name, tracker_session
from eightball_ppo.trl_adapters.batch_sizes import batch_size, repeats_per_epoch
from eightball_ppo.trl_adapters.build import TRLModels
from eightball_ppo.trl_adapters.loop import trl_loop
from eightball_ppo.trl_adapters.sampler import RolloutSampler
from eightball_ppo.trl_adapters.speedups import QuickAdamW

logger = logging.getLogger(__name__)

# options of ours that are TRL's, by name
SHARED_OPTIONS = (
    *("seed", "disable_tqdm", "total_episodes", "num_mini_batches", "num_ppo_epochs", "learning_rate"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "cliprange", "cliprange_value", "vf_coef", "whiten_rewards"),
)


def check(config: PPOConfig, num_questions: int) -> None:
    """Raises InputError if the questions cannot fill a batch, or the minibatches do not divide it."""
    batch_size(config, num_questions, num_processes())


def fit(task: Task[PPOConfig], run: Run) -> PreTrainedModel:
    """Returns the policy that TRL's PPO has trained."""
    config, world_size = task.config, num_processes()
    assert config.total_episodes is not None
    batch = batch_size(config, len(task.questions["train"]), world_size)
    episodes_per_update = batch * world_size
    if config.total_episodes % episodes_per_update and is_main_process():
        total = config.total_episodes
        logger.warning("--total_episodes %d: rounded up to complete updates of %d", total, episodes_per_update)
    set_seed(config.seed)
    updates = -(-config.total_episodes // episodes_per_update)
    training = PPOTraining(task, batch, updates, run)
    trainer = build_trainer(config, training.models, batch, run.path, [*training.callbacks, *task.callbacks])
    training.enable_checkpoints(trainer, task.resume)
    with tracker_session(trainer, run.path, run.method):
        run_trainer(trainer, config)
    require_equal_ranks(trainer)
    run.results |= {
        "episodes": trainer.state.episode,
        "updates": trainer.state.global_step,
        "stopped_by": training.early_stop.stopped_by or "total_episodes",
        "per_device_train_batch_size": batch,
        "world_size": world_size,
    }
    return training.classifier.to("cpu")


def build_trainer(config: PPOConfig, models: TRLModels, batch: int, output_dir: Path, callbacks: list[Any]) -> Any:
    """Builds a `PPOTrainer`.

    Args:
        config: The options of PPO.
        models: Policy, reference, value model and reward model.
        batch: Episodes per update and process.
        output_dir: The directory of the run.
        callbacks: For the trainer.

    Returns:
        The trainer, ready to `train()`.
    """
    from trl.experimental import ppo as trl_ppo

    num_questions, world_size = len(models.policy.backbone.encoder), num_processes()
    repeats = repeats_per_epoch(config, num_questions, world_size)
    trainer = trl_ppo.PPOTrainer(
        args=_trl_arguments(config, batch, output_dir),
        processing_class=models.ids,
        model=models.policy,
        ref_model=models.reference,
        reward_model=models.reward,
        value_model=models.value,
        train_dataset=range(num_questions * repeats),  # for its length; `RolloutSampler` makes the batches
        optimizers=(_optimizer(config, models), None),
        data_collator=list,
        callbacks=callbacks,
    )
    rank = trainer.accelerator.process_index
    trainer.dataloader = RolloutSampler(models.ids, num_questions, repeats, batch, config.seed, rank, world_size)
    if str(trainer.accelerator.distributed_type).rpartition(".")[2] not in ("FSDP", "DEEPSPEED"):
        # Accelerate's wrapper accumulates gradients and unscales those of float16; neither is needed here. At every
        # step it also searches the installed packages, which takes a tenth of a small policy's training time.
        trainer.optimizer = trainer.optimizer.optimizer
    replace_progress(trainer, "ppo", config.disable_tqdm)
    return trainer


def _trl_arguments(config: PPOConfig, batch: int, output_dir: Path) -> Any:
    """TRL's `PPOConfig`: our options, and those with a fixed value.

    Raises:
        InputError: A tracker or scheduler that transformers does not know.
    """
    from trl.experimental import ppo as trl_ppo

    try:
        return trl_ppo.PPOConfig(
            output_dir=str(output_dir),
            **{name: getattr(config, name) for name in SHARED_OPTIONS},
            kl_coef=config.beta,
            report_to=resolve_report_to(config.report_to),
            run_name=run_name(output_dir.name.removesuffix(".unfinished"), config.report_to),
            project=project(),
            save_strategy="no",
            logging_steps=1,
            # TRL's defaults switch on what its loop then ignores
            bf16=False,
            activation_checkpointing=False,
            # an answer is one label, sampled from the softmax of the saved policy
            response_length=1,
            temperature=1.0,
            stop_token=None,
            num_sample_generations=0,
            kl_estimator="k1",
            gradient_accumulation_steps=1,
            per_device_train_batch_size=batch,
            local_rollout_forward_batch_size=batch,
        )
    except ValueError as error:
        raise InputError(f"ppo: {str(error).splitlines()[0]}") from None


def _optimizer(config: PPOConfig, models: TRLModels) -> torch.optim.Optimizer:
    """AdamW with one learning rate for the policy and one for the value model; TRL applies its schedule to both.

    A value model as fast as the policy soon predicts the low score of a question whose good answer was not sampled yet;
    then bad answers have no negative advantage any more, and the question is not learned. See docs/LOG.md.
    """
    assert config.weight_decay is not None
    groups: list[dict[str, Any]] = []
    for model, rate in ((models.policy, config.learning_rate), (models.value, config.value_learning_rate)):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for dtype in dict.fromkeys(parameter.dtype for parameter in trained):
            groups.append({"params": [parameter for parameter in trained if parameter.dtype == dtype], "lr": rate})
    return QuickAdamW(groups, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay, fused=True)


def run_trainer(trainer: Any, config: PPOConfig) -> None:
    """Runs TRL's `train()`, which `--stop_kl` may end early."""
    with trl_loop(trainer, config.seed), allow_early_stop(trainer):
        trainer.train()
