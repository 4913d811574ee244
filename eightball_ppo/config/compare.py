"""The options of a comparison: what all methods share, and the axes of the grid."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from eightball_ppo.config.fields import AT_LEAST_1, POSITIVE_FINITE, PROBABILITY, SEED, option, require
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.noise import LabelNoise
from eightball_ppo.config.registry import BUILT_IN, METHODS, REFERENCE

# At the first the optimum is one label on most questions; at the second it is not.
DEFAULT_KL_COEFS = (0.1, 2.0)
DEFAULT_RAW_KL_COEFS = (0.1, 0.5)  # times the standard deviation of raw scores over labels


@dataclass
class CompareConfig(GraderTrainingConfig):
    """Train every method on the same grades with several seeds; report which is ahead, by how much, how certainly."""

    resumes: ClassVar[bool] = True

    output_dir: str = option("runs/compare", "Directory of the comparison; an existing one is continued.")
    methods: list[str] = option(list(BUILT_IN), "Methods to compare.")
    seeds: list[int] = option([0, 1, 2], "Seeds; every method is trained with each.", SEED)
    references: int = option(
        1, "References, trained here, each with its own reward model; seed s has number s % references.", AT_LEAST_1
    )
    kl_coefs: list[float] = option(
        [], "KL coefficients; default 0.1 2; of raw scores 0.1 0.5 times their standard deviation.", POSITIVE_FINITE
    )
    label_noise: list[str] = option(["0.0"], "RATE[:row|cell|call] ...: wrong training grades; results use clean ones.")
    grader_call_budgets: list[int] = option([], "Limits on the (question, label) grades of training.", AT_LEAST_1)
    thresholds: list[float] = option([], "Thresholds of distill; none: chosen on validation questions.", PROBABILITY)
    method_options: list[str] = option([], "METHOD.OPTION=VALUE ...: other recipes, e.g. ppo.total_episodes=96000.")
    num_workers: int | None = option(None, "Runs trained at once, each a process with one thread.", AT_LEAST_1)
    contrasts: list[str] = option([], "A:B ...: pairs of the primary family; default ppo:distill, else the first two.")
    margin: float = option(0.02, "Largest difference of accuracy that counts as none.", POSITIVE_FINITE)

    def __post_init__(self) -> None:
        if isinstance(self.label_noise, list):  # numbers, too
            self.label_noise = [str(LabelNoise.parse(noise)) for noise in self.label_noise]
        super().__post_init__()
        for name in ("methods", "seeds", "kl_coefs", "label_noise", "grader_call_budgets", "thresholds"):
            values = getattr(self, name)
            shown = " ".join(map(str, values))
            require(len(set(values)) == len(values), f"--{name} {shown}: one of them appears twice")
            needed = name in ("methods", "seeds", "label_noise")
            require(bool(values) or not needed, f"--{name}: at least one is needed")
        for contrast in self.contrasts:
            pair = contrast.split(":")
            require(
                len(set(pair)) == len(pair) == 2 and set(pair) <= set(self.methods),
                f"--contrasts {contrast}: A:B is needed, two of --methods, e.g. ppo:distill",
            )
        require(
            self.references <= len(self.seeds),
            f"--references {self.references}: needs as many --seeds, there are {len(self.seeds)}",
        )
        for method in self.methods:
            require(method in METHODS, f"--methods {method}: unknown; known: {', '.join(METHODS)}")
        rates = [LabelNoise.parse(noise).rate for noise in self.label_noise]
        for name, values in (("kl_coefs", self.kl_coefs), ("label_noise", rates), ("thresholds", self.thresholds)):
            for value in values:
                require(float(f"{value:g}") == value, f"--{name} {value}: at most 6 digits; it names a directory")
        require(not self.thresholds or "distill" in self.methods, "--thresholds: needs distill among --methods")
        require(self.seed == 0, f"--seed {self.seed}: a comparison has --seeds")
        require(not self.overwrite_output_dir, "--overwrite_output_dir: remove the runs to repeat instead")

    @property
    def primary_pairs(self) -> list[tuple[str, str]]:
        """The pairs of the primary family, (A, B) for A minus B."""
        if self.contrasts:
            return [(a, b) for a, _, b in (contrast.partition(":") for contrast in self.contrasts)]
        trained = [name for name in self.methods if name != REFERENCE and not METHODS[name].baseline]
        first = ["ppo", "distill"] if {"ppo", "distill"} <= set(trained) else trained[:2]
        return [(first[0], first[1])] if len(first) == 2 else []

    def with_kl_coefs(self, unit: float | None = None) -> Self:
        """The options with the default KL coefficients where none is given; `unit` is that of raw scores."""
        raw = [float(f"{coef * unit:.3g}") for coef in DEFAULT_RAW_KL_COEFS] if unit else []
        return replace(self, kl_coefs=self.kl_coefs or raw or list(DEFAULT_KL_COEFS))
