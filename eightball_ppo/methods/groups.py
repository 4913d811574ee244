"""RLOO and GRPO: TRL's own trainers, unchanged, on the adapters of a classifier.

A group of equal answers gives these methods no gradient, and a confident reference samples little else. So training
starts at a high temperature and a high beta, which both fall to their final values. Policy and reference are always
read at the same temperature, and at the end it is 1.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, set_seed

from eightball_ppo.config.methods import GroupBaselineConfig, GRPOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.task import Task, record_rollouts
from eightball_ppo.models.lora import with_lora
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.training.early_stop import ForecastCallback, PlateauCallback, early_stop_states
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.state import PerRankState
from eightball_ppo.training.supervised import MetricsCallback, replace_progress
from eightball_ppo.training.trackers import project, resolve_report_to, run_name, tracker_session
from eightball_ppo.training.trainer import ResumableTrainer
from eightball_ppo.trl_adapters.batch_sizes import MAX_DEFAULT_BATCH
from eightball_ppo.trl_adapters.group import GroupPolicyAdapter, RowTokenizer
from eightball_ppo.trl_adapters.loop import trl_loop
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary

INITIAL_TEMPERATURE = 20.0  # from 1 on, rare answers would never be sampled; above 100 the pad column would be
MIN_ANNEAL_FRACTION = 0.02  # the share of 1/kl_coef that annealing starts from
# options of ours that are TRL's, by name
SHARED_OPTIONS = (
    *("seed", "disable_tqdm", "steps_per_generation", "num_iterations", "num_generations", "learning_rate"),
    *("lr_scheduler_type", "epsilon"),
)


def check(config: GroupBaselineConfig, num_questions: int) -> None:
    """Raises InputError if groups, parts and processes do not divide a batch, or the questions cannot fill it."""
    generation_batch_size(config, num_questions, num_processes())


def fit(task: Task[GroupBaselineConfig], run: Run) -> PreTrainedModel:
    """Returns the policy that TRL's trainer of `run.method`, "rloo" or "grpo", has trained."""
    config = task.config
    batch = generation_batch_size(config, len(task.questions["train"]), num_processes())
    set_seed(config.seed)
    training = GroupTraining(task, batch, run)
    trainer = training.build_trainer()
    training.enable_checkpoints(trainer, task.resume)
    with tracker_session(trainer, run.path, run.method):
        run_trainer(trainer, config.seed)
    require_equal_ranks(trainer)
    run.results |= {
        "episodes": trainer.state.global_step // training.steps_per_update * batch,
        "updates": trainer.state.global_step // training.steps_per_update,
        "stopped_by": training.plateau.stopped_by or "total_episodes",
        "generation_batch_size": batch,
        "world_size": num_processes(),
    }
    return training.classifier.to("cpu")


def generation_batch_size(config: GroupBaselineConfig, num_questions: int, world_size: int) -> int:
    """Answers sampled at once: the configured number, or the largest one up to `MAX_DEFAULT_BATCH`.

    Raises:
        InputError: Groups, parts and processes do not divide it, or the questions cannot fill it (TRL would train
            nothing and say nothing).
    """
    parts = config.steps_per_generation * world_size
    available = num_questions * config.num_generations
    groups = f"{num_questions} questions x --num_generations {config.num_generations}"
    batch = config.generation_batch_size
    if batch is None:
        batch = min(MAX_DEFAULT_BATCH, available)
        while batch and (batch % config.num_generations or batch % parts):
            batch -= 1
        if not batch:
            raise InputError(
                f"{groups}: too few for --steps_per_generation {config.steps_per_generation} on {world_size} "
                "process(es); lower it"
            )
    if batch < 1 or batch % config.num_generations or batch % parts:
        raise InputError(
            f"--generation_batch_size {batch}: must be a multiple of --num_generations {config.num_generations} and of "
            f"--steps_per_generation {config.steps_per_generation} x {world_size} process(es)"
        )
    if batch > available:
        raise InputError(f"--generation_batch_size {batch}: {groups} fill at most {available}")
    return batch


class GroupTraining:
    """The models and scores of one training of RLOO or GRPO.

    Args:
        task: The task.
        batch: Answers sampled at once, over all processes.
        run: Gets metrics, completions and checkpoints.

    Attributes:
        policy: The policy, with the temperature at which it samples now.
        reference: The reference, read at the same temperature.
        classifier: The classifier inside the policy.
        beta: The present KL coefficient.
        updates: Number of updates.
        plateau: Stops the training early.
    """

    def __init__(self, task: Task[GroupBaselineConfig], batch: int, run: Run):
        self.config = config = task.config
        self.method, self.task, self.batch, self.run = run.method, task, batch, run
        assert config.total_episodes is not None
        self.updates = -(-config.total_episodes // batch)
        self.steps_per_update = config.steps_per_generation * config.num_iterations
        self.ids = PromptVocabulary(len(task.labels))
        encoder = PromptEncoder(task.tokens["train"], self.ids)
        if config.use_peft:  # the reference is the policy's own model without its adapters
            policy = reference = with_lora(task.classifier.requires_grad_(False), config)
        else:
            policy, reference = (copy.deepcopy(task.classifier).requires_grad_(trained) for trained in (True, False))
        self.policy = GroupPolicyAdapter(policy, encoder)
        self.reference = GroupPolicyAdapter(reference, encoder, adapters=False)
        self.classifier = self.policy.backbone.classifier
        self.kl_in_reward = isinstance(config, GRPOConfig) and config.kl_in_reward
        self.beta = config.beta
        penalised = self.kl_in_reward or self.method == "rloo"

        def reward_kl_coef() -> float:
            return self.beta if penalised else 0.0

        self.plateau = PlateauCallback(config)
        self.scores = record_rollouts(task, self.policy, self.reference, reward_kl_coef, self.updates, run)

    def enable_checkpoints(self, trainer: ResumableTrainer, resume: ResumeContext) -> None:
        """Makes `trainer` write checkpoints between updates, and start at the resume point."""
        trainer.steps_per_update, trainer.one_generator = self.steps_per_update, True
        resume = resume.with_states(("scores", PerRankState(self.scores)), *early_stop_states(self.plateau))
        writer = CheckpointWriter(self.config, self.run, self.classifier, self.task.tokenizer, resume)
        trainer.enable_checkpoints(writer)

    def reward(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """TRL's reward function: the grader's scores, minus the KL penalty unless TRL applies it.

        Args:
            prompts: Row numbers of the questions, B of them.
            completion_ids: Token ids of the answers, whose last one encodes the label.
        """
        rows_B = torch.tensor([int(row) for row in prompts])
        actions_B = torch.tensor([ids[-1] - 1 for ids in completion_ids])
        score_B = self.scores(rows_B, actions_B)
        if self.kl_in_reward and self.beta:
            kl_B = self.policy.logp_B(rows_B, actions_B) - self.reference.logp_B(rows_B, actions_B)
            score_B = score_B - self.beta * kl_B.to(score_B.device)
        return score_B.tolist()

    def anneal(self, update: int) -> None:
        """Sets beta and temperature of an update; the last one always gets the final values."""
        fraction, last = self.config.anneal_fraction, update + 1 == self.updates
        passed = update / (self.updates * fraction) if fraction and not last else 1.0
        self.beta = self.config.beta / min(1.0, max(passed, MIN_ANNEAL_FRACTION))
        temperature = max(1.0, INITIAL_TEMPERATURE + (1.0 - INITIAL_TEMPERATURE) * passed) if fraction else 1.0
        self.policy.temperature = self.reference.temperature = temperature

    def build_trainer(self) -> Any:
        """Returns TRL's trainer, ready to `train()`."""
        from datasets import Dataset

        config = self.config
        trainer_class, arguments = _trl_classes(self.method)
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        rate, decay = config.learning_rate, config.weight_decay
        assert rate is not None
        optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, config.adam_beta2), weight_decay=decay, fused=True)
        metrics = MetricsCallback(self.run, self.method, lambda: self._metrics(trainer), unit=self.task.unit)
        trainer = trainer_class(
            model=self.policy,
            reward_funcs=self.reward,
            args=arguments(**self._arguments()),
            train_dataset=Dataset.from_dict({"prompt": [str(row) for row in range(len(self.task.train_scores))]}),
            processing_class=RowTokenizer(self.ids),
            optimizers=(optimizer, None),
            callbacks=[
                *(metrics, GradNormCallback(None, self.scores.fault), self.plateau),
                *(ForecastCallback(steps_per_update=self.steps_per_update), *self.task.callbacks),
            ],
        )
        # TRL loads its reference by name, which an adapter lacks; it reads both attributes during training
        trainer.ref_model = trainer.accelerator.prepare_model(self.reference, evaluation_mode=True)
        trainer.add_callback(_annealing(self, trainer))
        replace_progress(trainer, self.method, config.disable_tqdm)
        return trainer

    def _arguments(self) -> dict[str, Any]:
        config, run = self.config, self.run
        arguments: dict[str, Any] = {
            **{name: getattr(config, name) for name in SHARED_OPTIONS},
            "output_dir": str(run.path),
            "run_name": run_name(run.target.name, config.report_to),
            "project": project(),
            "report_to": resolve_report_to(config.report_to),
            "save_strategy": "no",
            "logging_steps": self.steps_per_update,
            # TRL's defaults switch on what its loop then ignores
            "bf16": False,
            "activation_checkpointing": False,
            "dataloader_pin_memory": False,
            "beta": 0.0,  # of TRL's own reference; `_annealing` sets ours on the trainer
            "temperature": 1.0,
            "max_completion_length": 1,
            "gradient_accumulation_steps": 1,
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": self.batch // config.steps_per_generation // num_processes(),
            "max_steps": self.updates * self.steps_per_update,
        }
        if isinstance(config, GRPOConfig):
            arguments |= {"loss_type": "grpo", "scale_rewards": config.scale_rewards, "use_bias_correction_kl": True}
        return arguments

    def _metrics(self, trainer: Any) -> dict[str, Any]:
        update = trainer.state.global_step // self.steps_per_update
        return {"episode": update * self.batch, **self.task.exact_metrics(self.classifier)}


def _trl_classes(method: str) -> tuple[Any, Callable[..., Any]]:
    """The trainer class of TRL, made resumable, and the class of its arguments."""
    import trl

    known = {"rloo": (trl.RLOOTrainer, trl.RLOOConfig), "grpo": (trl.GRPOTrainer, trl.GRPOConfig)}
    trainer_class, arguments = known[method]
    return type(trainer_class.__name__, (ResumableTrainer, trainer_class), {}), arguments


def _annealing(training: GroupTraining, trainer: Any) -> TrainerCallback:
    """Sets beta and temperature where TRL reads them, before every batch of answers is sampled."""

    class Annealing(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % training.steps_per_update == 0:
                training.anneal(state.global_step // training.steps_per_update)
                trainer.temperature = training.policy.temperature
                trainer.beta = 0.0 if training.kl_in_reward else training.beta

    return Annealing()


def run_trainer(trainer: Any, seed: int) -> None:
    """Runs TRL's `train()`, from the resume point if there is one."""
    with trl_loop(trainer, seed):
        trainer.train_or_resume()
