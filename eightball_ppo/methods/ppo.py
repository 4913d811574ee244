"""PPO: TRL's `PPOTrainer`, no line of its `train()` changed, on adapters of a classifier."""

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
from eightball_ppo.training.supervised import replace_progress, resolve_report_to
from eightball_ppo.training.trackers import project, run_name, tracker_session
from eightball_ppo.trl_adapters.batch_sizes import batch_size, generations
from eightball_ppo.trl_adapters.build import TRLModels
from eightball_ppo.trl_adapters.loop import trl_loop
from eightball_ppo.trl_adapters.sampler import RolloutSampler
from eightball_ppo.trl_adapters.speedups import QuickAdamW

logger = logging.getLogger(__name__)


def check(config: PPOConfig, num_questions: int) -> None:
    """Raises InputError if the questions cannot fill a batch, or the minibatches do not divide it."""
    batch_size(config, num_questions, num_processes())


def fit(task: Task[PPOConfig], run: Run) -> PreTrainedModel:
    """The policy that TRL's PPO has trained."""
    config, world_size = task.config, num_processes()
    batch = batch_size(config, len(task.questions["train"]), world_size)
    episodes_per_update = batch * world_size
    if config.total_episodes % episodes_per_update and is_main_process():
        logger.warning(
            "--total_episodes %d: rounded up to whole updates of %d", config.total_episodes, episodes_per_update
        )
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
        "ended_by": "stop_kl" if trainer.state.global_step < updates else "total_episodes",
        "per_device_train_batch_size": batch,
        "world_size": world_size,
    }
    return training.classifier.to("cpu")


def build_trainer(config: PPOConfig, models: TRLModels, batch: int, output_dir: Path, callbacks: list[Any]) -> Any:
    """A `PPOTrainer` of `models`, ready to `train()`. `batch` is the number of episodes per update and process."""
    from trl.experimental import ppo as trl_ppo

    num_questions, world_size = len(models.policy.by_row.reader), num_processes()
    repeats = generations(config, num_questions, world_size)
    trainer = trl_ppo.PPOTrainer(
        args=_trl_arguments(config, batch, output_dir),
        processing_class=models.ids,
        model=models.policy,
        ref_model=models.reference,
        reward_model=models.reward,
        value_model=models.value,
        train_dataset=range(
            num_questions * repeats
        ),  # only its length is read: the batches are those of `RolloutSampler`
        optimizers=(_optimizer(config, models), None),
        data_collator=list,
        callbacks=callbacks,
    )
    rank = trainer.accelerator.process_index
    trainer.dataloader = RolloutSampler(models.ids, num_questions, repeats, batch, config.seed, rank, world_size)
    if str(trainer.accelerator.distributed_type).rpartition(".")[2] not in ("FSDP", "DEEPSPEED"):
        # Accelerate's wrapper accumulates gradients and unscales those of float16; neither is done here. At every step
        # it looks through the installed packages, too, which takes a tenth of a small policy's training.
        trainer.optimizer = trainer.optimizer.optimizer
    replace_progress(trainer, "ppo", config.disable_tqdm)
    return trainer


def _trl_arguments(config: PPOConfig, batch: int, output_dir: Path) -> Any:
    """TRL's own `PPOConfig`: our options, plus those that are fixed.

    Raises:
        InputError: a tracker or scheduler that transformers does not know.
    """
    from trl.experimental import ppo as trl_ppo

    try:
        return trl_ppo.PPOConfig(
            output_dir=str(output_dir),
            seed=config.seed,
            report_to=resolve_report_to(config.report_to),
            run_name=run_name(output_dir.name.removesuffix(".unfinished"), config.report_to),
            project=project(),
            disable_tqdm=config.disable_tqdm,
            save_strategy="no",
            logging_steps=1,
            # precision and memory: set explicitly, because TRL's defaults switch on what its loop then ignores
            bf16=False,
            activation_checkpointing=False,
            # one answer is one label, sampled from the very softmax that is saved
            response_length=1,
            temperature=1.0,
            stop_token=None,
            num_sample_generations=0,
            kl_estimator="k1",
            gradient_accumulation_steps=1,
            per_device_train_batch_size=batch,
            local_rollout_forward_batch_size=batch,
            total_episodes=config.total_episodes,
            num_mini_batches=config.num_mini_batches,
            num_ppo_epochs=config.num_ppo_epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            kl_coef=config.kl_coef,
            cliprange=config.cliprange,
            cliprange_value=config.cliprange_value,
            vf_coef=config.vf_coef,
            whiten_rewards=config.whiten_rewards,
        )
    except ValueError as error:
        raise InputError(f"ppo: {str(error).splitlines()[0]}") from None


def _optimizer(config: PPOConfig, models: TRLModels) -> torch.optim.Optimizer:
    """AdamW with a learning rate for the policy and one for the value model; TRL decays both alike.

    A critic as fast as the policy soon expects the bad score of a question whose good answer was not sampled yet; the
    bad answers then cost nothing any more, and the question is lost. See docs/LOG.md.
    """
    groups: list[dict[str, Any]] = []
    for model, rate in ((models.policy, config.learning_rate), (models.value, config.value_learning_rate)):
        trained = [own for own in model.parameters() if own.requires_grad]
        for dtype in dict.fromkeys(own.dtype for own in trained):
            groups.append({"params": [own for own in trained if own.dtype == dtype], "lr": rate})
    return QuickAdamW(groups, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay)


def run_trainer(trainer: Any, config: PPOConfig) -> None:
    """TRL's `train()`, which `--stop_kl` may end."""
    with trl_loop(trainer, config.seed), allow_early_stop(trainer):
        trainer.train()
