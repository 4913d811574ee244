"""RLOO and GRPO trainings on tiny problems."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from eightball_ppo.config.methods import GroupBaselineConfig, GRPOConfig, RLOOConfig
from eightball_ppo.data import Questions
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import groups
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.runtime.distributed import num_processes

METHOD = {RLOOConfig: "rloo", GRPOConfig: "grpo"}


def config(config_class: type[GroupBaselineConfig], **overrides: Any) -> GroupBaselineConfig:
    """One step on everything at temperature 1; overridden as needed."""
    settings: dict[str, Any] = {"num_generations": 10, "steps_per_generation": 1, "num_iterations": 1}
    settings |= {"total_episodes": 1, "kl_coef": 0.5, "anneal_fraction": 0.0, "learning_rate": 0.01, "adam_beta2": 0.9}
    return config_class(**{**settings, "disable_tqdm": True, **overrides})


class Job(groups.GroupTraining):
    """A training on a table of logits or a tiny classifier; `rows` is what it logged."""

    def __init__(self, config: GroupBaselineConfig, model: Any, table: TokenTable, score_NK: Tensor):
        self.rows: list[dict[str, Any]] = []
        task: Any = SimpleNamespace(
            config=config,
            labels=LabelSet.of([f"label {k}" for k in range(score_NK.shape[1])]),
            questions={"train": Questions("here", [f"question {row}" for row in range(len(table))])},
            classifier=model,
            tokenizer=None,
            tokens={"train": table},
            train_scores=BudgetedScores(score_NK),
            exact_metrics=lambda policy: {},
            callbacks=(),
            unit=1.0,
        )
        run: Any = SimpleNamespace(method=METHOD[type(config)], log=self.rows.append)
        super().__init__(task, groups.generation_batch_size(config, len(table), num_processes()), run)

    def trainer(self, tmp_path: Path) -> Any:
        self.run.path, self.run.target = tmp_path, tmp_path / "run"
        return self.build_trainer()

    def train(self, tmp_path: Path) -> Any:
        trainer = self.trainer(tmp_path)
        groups.run_trainer(trainer, self.config.seed)
        return trainer

    def logp_NK(self) -> Tensor:
        return predict_logits_NK(self.classifier, self.task.tokens["train"]).log_softmax(-1)
