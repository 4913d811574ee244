"""The options of what other people touch: the demo, uploads, the report, the environment."""

from dataclasses import dataclass

from eightball_ppo.config.fields import option, require
from eightball_ppo.config.model import TrustOptions


@dataclass
class DemoConfig(TrustOptions):
    """Ask trained policies in the browser, side by side with their reference, their grader and the optimum."""

    runs: list[str] = option(
        [], "Directories of finished runs, shown in this order; by default runs/distill, if it exists, and runs/ppo."
    )
    reward_model_path: str | None = option(
        None, "Reward model that shows the grader's view; by default the one that the runs name."
    )
    server_name: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    server_port: int = option(7860, "Port to listen on.")

    def __post_init__(self) -> None:
        require(1 <= self.server_port <= 65535, f"--server_port {self.server_port}: 1 to 65535")


@dataclass
class PushConfig:
    """Upload a finished run to the Hugging Face Hub: a model, a dataset of grades, a comparison, or a Space."""

    run_dirs: list[str] = option([], "The finished run; for a Space, all runs that it shows.")
    repo_id: str = option("", "Repository to create or update: USER/NAME, or NAME for a repository of your own.")
    space: bool = option(False, "Upload the demo of the runs as a Space instead of the run itself.")
    comparison: str | None = option(
        None, "Directory of a comparison whose table the model card shows; by default the one that the run is part of."
    )
    hub_private_repo: bool = option(True, "Create the repository as private; one that stands is left as it is.")
    dry_run: bool = option(False, "Print what would be uploaded and to where, and stop.")

    def __post_init__(self) -> None:
        require(
            bool(self.run_dirs), "push: which run? pass its directory, e.g. eightball push runs/ppo --repo_id ME/BALL"
        )
        require(bool(self.repo_id.strip()), "--repo_id: names no repository; pass USER/NAME")
        require(self.space or len(self.run_dirs) == 1, "push: one run a repository; with --space there may be more")


@dataclass
class ReportConfig(TrustOptions):
    """Write the page of a comparison or an audit anew from its records, or print runs as Markdown tables."""

    run_dirs: list[str] = option([], "Directories of finished runs, or one of a comparison or an audit.")

    def __post_init__(self) -> None:
        require(
            bool(self.run_dirs),
            "report: which runs? pass their directories, e.g. eightball report runs/ppo runs/distill",
        )


@dataclass
class EnvConfig:
    """Print versions, machine and settings: what a bug report needs, and no secret."""
