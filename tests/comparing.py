"""Short comparisons on the small data: how to run them, and what they wrote."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eightball_ppo.cli import parser
from eightball_ppo.comparison import workers
from eightball_ppo.config.compare import CompareConfig

SPLITS = ["train", "heldout"]
SHORT = [
    *(f"{method}.total_episodes=240" for method in ("ppo", "rloo", "grpo")),
    *(f"{method}.num_train_epochs=1" for method in ("distill", "distill_soft", "distill_boltzmann")),
    *("exact.num_train_epochs=2", "distill.threshold=0"),
]
Outcome = tuple[int, str, str]


def flags(directory: Path | str, *argv: object, **options: Any) -> list[str]:
    """The command line of a comparison in `directory`; lists and tuples are several words."""
    line = ["--output_dir", str(directory), "--disable_tqdm", *map(str, argv)]
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        line += [f"--{name}", *map(str, values)]
    return line


def call(argv: list[str]) -> Outcome:
    """(exit code, stdout, stderr) of the script, in this process."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            parser.main(CompareConfig, "eightball_ppo.comparison.compare:run", argv)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, out.getvalue(), err.getvalue()


class Compare:
    """`compare(directory, ...)`: compare on the small data, with further options."""

    def __init__(self, small_data: Path, sft_run: Path, reward_run: Path, store: Path):
        models = {"sft_model_path": sft_run, "reward_model_path": reward_run}
        self.options = {"dataset_name": small_data, **models, "grade_store": store, "method_options": SHORT}

    def __call__(self, directory: Path | str, *argv: object, **options: Any) -> Outcome:
        return call(flags(directory, *argv, **{**self.options, **options}))


def run_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Jobs run one after the other without worker processes, and no figure is drawn."""
    patch.setattr(workers, "_run_pool", lambda jobs, config, *_: {job: workers.run_group(job, config) for job in jobs})
    patch.setattr("eightball_ppo.comparison.report.figures.charts", lambda data: [])
    patch.setattr("eightball_ppo.report.plots.plot_curves", lambda *_: None)
    patch.setattr("eightball_ppo.report.plots.plot_label_histogram", lambda *_: None)
    patch.setattr("gc.collect", lambda: 0)  # statsmodels calls it at every correction; a large process takes a second


def results(directory: Path) -> Any:
    """`results.parquet`."""
    return pd.read_parquet(directory / "results.parquet")


def summary(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "summary.json").read_text())


def times(directory: Path, *below: str) -> dict[str, int]:
    """When each file was written."""
    roots = [directory / name for name in below] or [directory]
    files = (file for root in roots for file in (root.rglob("*") if root.is_dir() else [root]))
    return {str(file.relative_to(directory)): file.stat().st_mtime_ns for file in files}
