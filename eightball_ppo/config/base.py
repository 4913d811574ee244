"""The options of every stage that writes a directory. Names and defaults follow TRL and transformers."""

import math
from dataclasses import dataclass
from typing import ClassVar

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.fields import option, require
from eightball_ppo.config.model import TrustOptions

MAX_COUNT = 10**9  # of anything that is counted


@dataclass
class RunConfig(TrustOptions, DataConfig):
    """What every stage has that writes a directory. `replaces`: the method whose runs it may replace unasked;
    `resumes`: it goes on in a directory of its own; `checkpointed`: it can go on from a checkpoint."""

    replaces: ClassVar[str] = "nothing"
    resumes: ClassVar[bool] = False
    checkpointed: ClassVar[bool] = False

    output_dir: str = option("", "Directory of the finished run; it must not hold another run.", affects_results=False)
    overwrite_output_dir: bool = option(
        False, "Replace a run that stands in output_dir, once the new one is whole.", affects_results=False
    )
    resume_from_checkpoint: str | None = option(
        None,
        "Go on where a run stopped: true, for its newest checkpoint, or the directory of one.",
        affects_results=False,
    )
    seed: int = option(0, "Seed of torch, numpy and python.")
    disable_tqdm: bool = option(False, "No progress bars.", affects_results=False)
    ddp_timeout: int = option(
        1800,
        "Seconds that a process of a launch waits for the others before it gives up, at the start and later.",
        affects_results=False,
    )
    push_to_hub: bool = option(
        False, "Upload the finished run to the Hugging Face Hub; needs --hub_model_id.", affects_results=False
    )
    hub_model_id: str | None = option(
        None, "Repository for --push_to_hub: USER/NAME, or NAME for one of your own.", affects_results=False
    )
    hub_private_repo: bool = option(
        True, "Create that repository as private; one that stands is left as it is.", affects_results=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.output_dir.strip()), "--output_dir: empty; name the directory of the run")
        self._check_resumption()
        require(0 <= self.seed < 2**31, f"--seed {self.seed}: between 0 and {2**31 - 1}")
        require(1 <= self.ddp_timeout <= 10**7, f"--ddp_timeout {self.ddp_timeout}: 1 to {10**7} seconds")
        for name, value in vars(self).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            require(finite, f"--{name} {value}: must be a finite number")
            counted = not isinstance(value, int) or name == "seed" or abs(value) <= MAX_COUNT
            require(counted, f"--{name} {value}: at most {MAX_COUNT}")

    def _check_resumption(self) -> None:
        if self.resume_from_checkpoint is not None:
            wanted = str(self.resume_from_checkpoint)  # Python programs say True, or a Path
            said = wanted.lower()
            self.resume_from_checkpoint = None if said == "false" else "true" if said == "true" else wanted
        require(
            self.resume_from_checkpoint is None or self.checkpointed,
            f"--resume_from_checkpoint {self.resume_from_checkpoint}: this stage has no checkpoints; run it again, "
            "grades that were made are kept",
        )
