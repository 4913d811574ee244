"""Our implementation: TRL's unchanged loop on our adapters, through the functions and callbacks of a real run."""

import tempfile
from pathlib import Path
from typing import Any

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.data import Questions
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import ppo
from eightball_ppo.methods.ppo_callbacks import PPOTraining
from eightball_ppo.methods.resume_task import resume_context_for_task
from eightball_ppo.methods.task import Task
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.runtime.run import Run

from .hook import UpdateHook
from .task import LABELS, BenchTask, OnUpdate, Settings


class Ours:
    """`methods.ppo`, which measures and writes its exact metrics as often as a run of the command."""

    options: dict[str, Any] = {}  # noqa: RUF012 (of the command, beside the settings)

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None):
        self.bench, self.settings = task, settings
        self.directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.config = self._config()
        self.task = self._task()
        self.run_directory = Run(self.config, "ppo")
        training = PPOTraining(self.task, settings.batch, settings.updates, self.run_directory)
        self.models = training.models
        callbacks = list(training.callbacks)
        if on_update is not None:
            classifier = self.models.policy.backbone.classifier
            callbacks.append(UpdateHook(on_update, lambda: predict_logits_NK(classifier, self.task.tokens["train"])))
        self.trainer = ppo.build_trainer(self.config, self.models, settings.batch, self.run_directory.path, callbacks)
        training.enable_checkpoints(self.trainer, resume_context_for_task(self.task, None))

    def _config(self) -> PPOConfig:
        settings = self.settings
        return PPOConfig(
            output_dir=str(Path(self.directory.name) / "run"),
            labels=list(LABELS),
            seed=settings.seed,
            kl_coef=settings.beta,
            total_episodes=settings.total_episodes,
            per_device_train_batch_size=settings.batch,
            num_mini_batches=settings.minibatches,
            num_ppo_epochs=settings.epochs,
            weight_decay=0.0,
            learning_rate=settings.learning_rate,
            value_learning_rate=settings.value_learning_rate,
            adam_beta2=settings.adam_beta2,
            cliprange=settings.cliprange,
            cliprange_value=1e6,
            vf_coef=settings.vf_coef,
            disable_tqdm=True,
            **self.options,
        )

    def _task(self) -> Task:
        """The task as `load_task` builds it from questions and grades."""
        bench = self.bench
        prompts = [ids[:length] for ids, length in zip(bench.ids_NT.tolist(), bench.length_N.tolist(), strict=True)]
        questions = Questions("benchmark", [" ".join(f"w{word}" for word in ids) for ids in prompts])
        classifier = bench.classifier()
        tokens = TokenTable.of(prompts)
        return Task(
            LabelSet.of(LABELS),
            classifier,
            tokenizer=None,  # type: ignore[arg-type] (the questions are tokens already)
            questions={"train": questions},
            tokens={"train": tokens},
            ref_logits_NK={"train": predict_logits_NK(classifier, tokens)},
            grader_logp_NK={"train": bench.score_NK},
            noisy_logp_NK=bench.score_NK,
            train_scores=BudgetedScores(bench.score_NK, seed=self.settings.seed),
            grader_fingerprint="benchmark",
            grading_record={},
            config=self.config,
        )

    def run(self) -> None:
        ppo.run_trainer(self.trainer, self.config)


class OursExact(Ours):
    """With the exact baseline instead of a value network."""

    options = {"baseline": "exact"}  # noqa: RUF012
