"""The options of the commands that show, share and describe finished runs."""

from dataclasses import dataclass

from eightball_ppo.config.fields import Rule, check_values, option, require
from eightball_ppo.config.model import TrustOptions


@dataclass
class DemoConfig(TrustOptions):
    """Ask trained policies in the browser, side by side with their reference, their grader and the optimum."""

    runs: list[str] = option(
        [], "Finished runs, the ball last; default: those of runs/distill, runs/ppo, runs/frozen/ppo that exist."
    )
    reward_model_path: str | None = option(None, "Reward model to show; by default the one that the runs name.")
    server_name: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    server_port: int = option(7860, "Port to listen on.", Rule(lambda port: 1 <= port <= 65535, "must be 1 to 65535"))

    def __post_init__(self) -> None:
        check_values(self)


@dataclass
class PushConfig(TrustOptions):
    """Upload a finished run to the Hugging Face Hub: a model, a dataset of grades, a comparison, or a Space."""

    run_dirs: list[str] = option([], "The finished run; for a Space, all runs that it shows.")
    repo_id: str = option("", "Repository to create or update: USER/NAME, or NAME for your own user.")
    space: bool = option(False, "Upload the demo of the runs as a Space instead of the run itself.")
    comparison: str | None = option(None, "Comparison whose table the model card shows; by default the run's own.")
    hub_private_repo: bool = option(True, "Create the repository as private; an existing one is not changed.")
    dry_run: bool = option(False, "Print what would be uploaded and to where, and stop.")

    def __post_init__(self) -> None:
        example = "eightball push runs/ppo --repo_id ME/BALL"
        require(bool(self.run_dirs), f"push: which run? pass its directory, e.g. {example}")
        require(bool(self.repo_id.strip()), "--repo_id: names no repository; pass USER/NAME")
        require(self.space or len(self.run_dirs) == 1, "push: one run a repository; with --space there may be more")


@dataclass
class ReportConfig(TrustOptions):
    """Rewrite the page of a comparison or an audit from its records, or print runs as Markdown tables."""

    run_dirs: list[str] = option([], "Directories of finished runs, or one of a comparison or an audit.")

    def __post_init__(self) -> None:
        example = "eightball report runs/ppo runs/distill"
        require(bool(self.run_dirs), f"report: which runs? pass their directories, e.g. {example}")


@dataclass
class EnvConfig:
    """Print versions, machine and settings for a bug report; no secrets."""
