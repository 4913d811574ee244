"""Options of every stage that writes a run directory. Names and defaults follow TRL and transformers."""

from dataclasses import dataclass
from typing import ClassVar

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.fields import SEED, Rule, check_values, option, require, run_option
from eightball_ppo.config.model import TrustOptions

TIMEOUT = Rule(lambda value: 1 <= value <= 10**7, "must be 1 to 10000000 seconds")


@dataclass
class RunConfig(TrustOptions, DataConfig):
    """Options of every stage that writes a run directory.

    Attributes:
        replaces: The method whose finished runs it may replace without `--overwrite_output_dir`.
        resumes: Whether it resumes in a directory that exists, without a flag.
        checkpointed: Whether it can resume from a checkpoint.
    """

    replaces: ClassVar[str] = "nothing"
    resumes: ClassVar[bool] = False
    checkpointed: ClassVar[bool] = False

    output_dir: str = run_option("", "Directory of the finished run; it must not hold another run.")
    overwrite_output_dir: bool = run_option(False, "Replace the run in output_dir once the new one is complete.")
    resume_from_checkpoint: str | None = run_option(None, "Resume from true (the newest checkpoint) or a directory.")
    seed: int = option(0, "Seed of torch, numpy and python.", SEED)
    disable_tqdm: bool = run_option(False, "No progress bars.")
    ddp_timeout: int = run_option(1800, "Seconds that a process waits for the others of its launch.", TIMEOUT)
    push_to_hub: bool = run_option(False, "Upload the finished run to the Hugging Face Hub; needs --hub_model_id.")
    hub_model_id: str | None = run_option(None, "Repository for --push_to_hub: USER/NAME, or NAME for your own user.")
    hub_private_repo: bool = run_option(True, "Create that repository as private; an existing one is not changed.")

    def __post_init__(self) -> None:
        if self.resume_from_checkpoint is not None:
            value = str(self.resume_from_checkpoint)  # Python programs pass True, or a Path
            self.resume_from_checkpoint = {"false": None, "true": "true"}.get(value.lower(), value)
        check_values(self)
        super().__post_init__()
        require(bool(self.output_dir.strip()), "--output_dir: empty; name the directory of the run")
        require(
            self.resume_from_checkpoint is None or self.checkpointed,
            f"--resume_from_checkpoint {self.resume_from_checkpoint}: this stage has no checkpoints; run it again, the "
            "grade store has its grades",
        )
