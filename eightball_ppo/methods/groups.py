"""RLOO and GRPO: TRL's own trainers, untouched, on the adapters of a classifier.

A group whose answers are all the same teaches these methods nothing, and a reference that is sure of itself gives
little else. So sampling starts hot and at a high price of KL, and both fall to what is asked for. Policy and reference
are always read at one temperature, and at the end it is 1.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, set_seed

from eightball_ppo.config.methods import GroupBaselineConfig, GRPOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.task import Task
from eightball_ppo.models.lora import with_lora
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.launch import require_equal_ranks
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.scores import compose_scores
from eightball_ppo.training.state import PerRankState
from eightball_ppo.training.supervised import MetricsCallback, replace_progress, resolve_report_to
from eightball_ppo.training.trackers import project, run_name, tracker_session
from eightball_ppo.training.trainer import ResumableTrainer
from eightball_ppo.trl_adapters.group import GroupPolicyAdapter, RowTokenizer
from eightball_ppo.trl_adapters.loop import trl_loop
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary

LARGEST_DEFAULT_BATCH = 1200
MIN_ANNEAL_FRACTION = 0.02  # the least share of 1/kl_coef that annealing starts from


def check(config: GroupBaselineConfig, num_questions: int) -> None:
    """Raises InputError if groups, parts and processes do not divide a batch, or the questions cannot fill it."""
    generation_batch_size(config, num_questions, num_processes())


def fit(task: Task[GroupBaselineConfig], run: Run) -> PreTrainedModel:
    """The policy that TRL's trainer of `run.method` ("rloo" or "grpo") has trained."""
    config = task.config
    batch = generation_batch_size(config, len(task.questions["train"]), num_processes())
    set_seed(config.seed)
    job = GroupTraining(task, batch, run)
    trainer = job.build_trainer()
    job.enable_checkpoints(trainer, task.resume)
    with tracker_session(trainer, run.path, run.method):
        run_trainer(trainer, config.seed)
    require_equal_ranks(trainer)
    run.results |= {
        "episodes": job.updates * batch,
        "updates": job.updates,
        "generation_batch_size": batch,
        "world_size": num_processes(),
    }
    return job.classifier.to("cpu")


def generation_batch_size(config: GroupBaselineConfig, num_questions: int, world_size: int) -> int:
    """Answers sampled at once: the configured number, or the largest sensible one.

    Raises:
        InputError: groups, parts and processes do not divide it, or the questions cannot fill it (TRL would end at
            once and learn nothing).
    """
    parts = config.steps_per_generation * world_size
    batch = config.generation_batch_size
    if batch is None:
        batch = min(LARGEST_DEFAULT_BATCH, num_questions * config.num_generations)
        while batch and (batch % config.num_generations or batch % parts):
            batch -= 1
        if not batch:
            raise InputError(
                f"{num_questions} questions x --num_generations {config.num_generations}: too few for "
                f"--steps_per_generation {config.steps_per_generation} on {world_size} process(es); lower it"
            )
    if batch < 1 or batch % config.num_generations or batch % parts:
        raise InputError(
            f"--generation_batch_size {batch}: must be a multiple of --num_generations {config.num_generations} and of "
            f"--steps_per_generation {config.steps_per_generation} x {world_size} process(es)"
        )
    if batch > num_questions * config.num_generations:
        raise InputError(
            f"--generation_batch_size {batch}: {num_questions} questions x --num_generations {config.num_generations} "
            f"fill at most {num_questions * config.num_generations}"
        )
    return batch


class GroupTraining:
    """The models and scores of one training, and what is read while it runs: KL coefficient, temperature, episodes."""

    def __init__(self, task: Task[GroupBaselineConfig], batch: int, run: Run):
        self.config = config = task.config
        self.method, self.task, self.batch, self.run = run.method, task, batch, run
        self.updates = -(-config.total_episodes // batch)
        self.steps_per_update = config.steps_per_generation * config.num_iterations
        self.ids = PromptVocabulary(len(task.labels))
        reader = PromptEncoder(task.tokens["train"], self.ids)
        if config.use_peft:  # the reference is the policy's own model, read past its adapters
            policy = reference = with_lora(task.classifier.requires_grad_(False), config)
        else:
            policy, reference = (copy.deepcopy(task.classifier).requires_grad_(trained) for trained in (True, False))
        self.policy = GroupPolicyAdapter(policy, reader)
        self.reference = GroupPolicyAdapter(reference, reader, adapters=False)
        self.classifier = self.policy.by_row.classifier
        self.kl_in_reward = isinstance(config, GRPOConfig) and config.kl_in_reward
        self.beta = config.kl_coef
        kl_is_paid = self.kl_in_reward or self.method == "rloo"
        self.scores = compose_scores(
            config,
            task.train_scores,
            self.policy,
            self.reference,
            lambda: (self.policy.temperature, self.beta if kl_is_paid else 0.0),
            task.questions["train"].texts,
            task.labels.names,
            self.updates,
            run,
        )

    def enable_checkpoints(self, trainer: ResumableTrainer, resume: ResumeContext) -> None:
        """Have `trainer` write checkpoints between updates, and begin at the resume point."""
        trainer.steps_per_update, trainer.one_generator = self.steps_per_update, True
        resume = resume.with_states(("scores", PerRankState(self.scores)))
        trainer.enable_checkpoints(
            CheckpointWriter(self.config, self.run, self.classifier, self.task.tokenizer, resume)
        )

    def reward(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """TRL's reward function: the grader's scores, less the price of KL where it is paid here."""
        rows_B = torch.tensor([int(row) for row in prompts])
        actions_B = torch.tensor([ids[-1] - 1 for ids in completion_ids])
        score_B = self.scores(rows_B, actions_B)
        if self.kl_in_reward and self.beta:
            kl_B = self.policy.logp_B(rows_B, actions_B) - self.reference.logp_B(rows_B, actions_B)
            score_B = score_B - self.beta * kl_B.to(score_B.device)
        return score_B.tolist()

    def anneal(self, update: int) -> None:
        """Price and temperature of an update; those of the last one are what was asked for, however few there are."""
        last = update + 1 == self.updates
        passed = (
            update / (self.updates * self.config.anneal_fraction) if self.config.anneal_fraction and not last else 1.0
        )
        self.beta = self.config.kl_coef / min(1.0, max(passed, MIN_ANNEAL_FRACTION))
        hot = self.config.initial_temperature if self.config.anneal_fraction else 1.0
        temperature = max(1.0, hot + (1.0 - hot) * passed)
        self.policy.temperature = self.reference.temperature = temperature

    def build_trainer(self) -> Any:
        """TRL's trainer, ready to `train()`."""
        from datasets import Dataset

        trainer_class, arguments = _trl_classes(self.method)
        learning_rate = self.config.learning_rate
        assert learning_rate is not None
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.policy.parameters() if parameter.requires_grad],
            lr=learning_rate,
            betas=(0.9, self.config.adam_beta2),
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        trainer = trainer_class(
            model=self.policy,
            reward_funcs=self.reward,
            args=arguments(**self._arguments()),
            train_dataset=Dataset.from_dict({"prompt": [str(row) for row in range(len(self.task.train_scores))]}),
            processing_class=RowTokenizer(self.ids),
            optimizers=(optimizer, None),
            callbacks=[
                MetricsCallback(self.run, self.method, lambda: self._measure(trainer)),
                GradNormCallback(None, self.scores.fault),
                *self.task.callbacks,
            ],
        )
        # TRL loads its reference by name, which an adapter has not; and reads both from here while it trains
        trainer.ref_model = trainer.accelerator.prepare_model(self.reference, evaluation_mode=True)
        trainer.add_callback(_annealing(self, trainer))
        replace_progress(trainer, self.method, self.config.disable_tqdm)
        return trainer

    def _arguments(self) -> dict[str, Any]:
        config, run = self.config, self.run
        shared: dict[str, Any] = {
            "output_dir": str(run.path),
            "run_name": run_name(run.target.name, config.report_to),
            "project": project(),
            "seed": config.seed,
            "report_to": resolve_report_to(config.report_to),
            "disable_tqdm": config.disable_tqdm,
            "save_strategy": "no",
            "logging_steps": self.steps_per_update,
            # precision and memory: said, because TRL's defaults switch on what TRL's loop then ignores
            "bf16": False,
            "activation_checkpointing": False,
            "dataloader_pin_memory": False,
            "beta": 0.0,  # of TRL's own reference; ours and its price are set on the trainer
            "temperature": 1.0,
            "max_completion_length": 1,
            "gradient_accumulation_steps": 1,
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": self.batch // config.steps_per_generation // num_processes(),
            "steps_per_generation": config.steps_per_generation,
            "num_iterations": config.num_iterations,
            "num_generations": config.num_generations,
            "max_steps": self.updates * self.steps_per_update,
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": config.lr_scheduler_type,
            "epsilon": config.epsilon,
        }
        if isinstance(config, GRPOConfig):
            shared |= {"loss_type": "grpo", "scale_rewards": config.scale_rewards, "use_bias_correction_kl": True}
        return shared

    def _measure(self, trainer: Any) -> dict[str, Any]:
        done = trainer.state.global_step // self.steps_per_update
        return {"episode": done * self.batch, **self.task.exact_metrics(self.classifier)}


def _trl_classes(method: str) -> tuple[Any, Callable[..., Any]]:
    """(trainer, arguments) of TRL."""
    import trl

    known = {"rloo": (trl.RLOOTrainer, trl.RLOOConfig), "grpo": (trl.GRPOTrainer, trl.GRPOConfig)}
    trainer_class, arguments = known[method]
    return type(trainer_class.__name__, (ResumableTrainer, trainer_class), {}), arguments


def _annealing(job: GroupTraining, trainer: Any) -> TrainerCallback:
    """Sets price and temperature where TRL reads them, before every batch of answers is drawn."""

    class Annealing(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % job.steps_per_update == 0:
                job.anneal(state.global_step // job.steps_per_update)
                trainer.temperature = job.policy.temperature
                trainer.beta = 0.0 if job.kl_in_reward else job.beta

    return Annealing()


def run_trainer(trainer: Any, seed: int) -> None:
    """TRL's `train()`, from the resume point if there is one."""
    with trl_loop(trainer, seed):
        trainer.train_or_resume()
