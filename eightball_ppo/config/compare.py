"""The options of a comparison: the terms that all methods share, and the axes of the grid."""

from dataclasses import dataclass
from typing import ClassVar

from eightball_ppo.config.fields import option, require
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.registry import BUILT_IN, METHODS


@dataclass
class CompareConfig(GraderTrainingConfig):
    """Train every method on the same grades, with seeds, and say which is ahead, by how much, and how sure that is."""

    resumes: ClassVar[bool] = True

    output_dir: str = option("runs/compare", "Directory of the comparison; one that stands there is gone on with.")
    methods: list[str] = option(list(BUILT_IN), "Methods to compare.")
    seeds: list[int] = option([0, 1, 2], "Seeds; every method is trained with each.")
    kl_coefs: list[float] = option(
        [0.1, 0.5], "Prices of KL (beta); every method is trained for, or measured at, each."
    )
    label_noise: list[float] = option([0.0], "Shares of wrong grades to learn from; results use the clean ones.")
    grader_call_budgets: list[int] = option(
        [], "Most (question, label) grades that training may look at, each compared; none given: no limit."
    )
    thresholds: list[float] = option(
        [], "Thresholds of method distill, each compared; none given: chosen on validation questions."
    )
    method_options: list[str] = option(
        [], "METHOD.OPTION=VALUE ...: other recipes than the methods' own, e.g. ppo.total_episodes=96000."
    )
    num_workers: int | None = option(None, "Runs trained at once, a process and a thread each; by default one a core.")
    resamples: int = option(10_000, "Resamples of the bootstrap behind every interval.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("methods", "seeds", "kl_coefs", "label_noise", "grader_call_budgets", "thresholds"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"--{name} {_words(values)}: one of them stands twice")
            require(bool(values) or name.startswith(("grader_call", "threshold")), f"--{name}: at least one is needed")
        for method in self.methods:
            require(method in METHODS, f"--methods {method}: unknown; known: {', '.join(METHODS)}")
        for seed in self.seeds:
            require(0 <= seed < 2**31, f"--seeds {seed}: between 0 and {2**31 - 1}")
        for beta in self.kl_coefs:
            require(0 < beta < float("inf"), f"--kl_coefs {beta}: must be above 0 and finite")
        for rate in self.label_noise:
            require(0 <= rate <= 1, f"--label_noise {rate}: a share, 0 to 1")
        for budget in self.grader_call_budgets:
            require(budget >= 1, f"--grader_call_budgets {budget}: at least 1")
        for threshold in self.thresholds:
            require(0 <= threshold <= 1, f"--thresholds {threshold}: a probability, 0 to 1")
        for name in ("kl_coefs", "label_noise", "thresholds"):
            for value in getattr(self, name):
                require(float(f"{value:g}") == value, f"--{name} {value}: at most 6 digits; it names a directory")
        require(not self.thresholds or "distill" in self.methods, "--thresholds: of method distill, which is left out")
        require(self.seed == 0, f"--seed {self.seed}: a comparison has --seeds")
        require(not self.overwrite_output_dir, "--overwrite_output_dir: remove what is to be made anew instead")
        require(self.num_workers is None or self.num_workers >= 1, f"--num_workers {self.num_workers}: at least 1")
        require(self.resamples >= 1000, f"--resamples {self.resamples}: at least 1000")


def _words(values: list[object]) -> str:
    return " ".join(map(str, values))
