"""Shared fixtures: no network, one thread, small data, one small SFT run and one small reward run."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from no_network.guarded_session import pytest_sessionfinish as pytest_sessionfinish  # these switch the guard on
from no_network.guarded_session import pytest_terminal_summary as pytest_terminal_summary
from no_network.guarded_session import pytest_unconfigure as pytest_unconfigure
from transformers.utils import logging as transformers_logging

from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.graders.storage.score_table import ScoreTable
from eightball_ppo.labels import EIGHTBALL_LABELS

pytest_plugins = ["processor_time"]

# a busy machine, and first imports, are no failures; and the same examples every time
settings.register_profile("any time", deadline=None, derandomize=True)
settings.load_profile("any time")

REPOSITORY = Path(__file__).parents[1]
EIGHTBALL = REPOSITORY / "datasets" / "eightball"
LABELS = list(EIGHTBALL_LABELS)
CHROMIUM = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]  # arguments of a browser that stays at home


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All tests: a process a core, four at most. Files or tests by name: none, so `-s` shows, imports happen once."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    alone = (named and not all(Path(name).is_dir() for name in config.args)) or config.option.capture == "no"
    return 0 if alone or config.option.collectonly else min(4, len(os.sched_getaffinity(0)))


@pytest.fixture(autouse=True, scope="session")
def _quiet_and_single_threaded() -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _current_directory_is_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the default grade store, the default runs and other relative paths apart."""
    monkeypatch.chdir(tmp_path)


def cells(scores: ScoreTable, name: str) -> np.ndarray:
    """A column [N, K] of the cells of a chunk: "score", "status" or "graded_at"."""
    assert scores.cells_NK is not None
    return scores.cells_NK[name]


def read_rows(split: str) -> list[dict[str, str]]:
    """The rows of one embedded split."""
    return [json.loads(line) for line in (EIGHTBALL / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def write_rows(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def small_dataset(directory: Path) -> Path:
    """The first rows of every embedded split, in another directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in (("sft", 40), ("rl", 60), ("preferences", 200), ("heldout", 40)):
        write_rows(directory / f"{split}.jsonl", read_rows(split)[:rows])
    return directory


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: a directory that `make` fills, one for all workers, made by the first that asks."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    root = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.mktemp("shared")

    def made(name: str, make: Callable[[Path], object]) -> Path:
        from processor_time import shared  # a plugin: pytest imports it first

        directory, done = root / f"shared-{name}" / name, root / f"shared-{name}.done"
        with FileLock(f"{done}.lock"):
            if not done.exists():
                directory.parent.mkdir()
                with shared(name):
                    make(directory)
                done.touch()
        return directory

    return made


@pytest.fixture(scope="session")
def small_data(once: Callable[..., Path]) -> Path:
    return once("small", small_dataset)


@pytest.fixture(scope="session")
def sft_run(once: Callable[..., Path], small_data: Path) -> Path:
    from eightball_ppo.methods import sft

    options: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "num_train_epochs": 2}
    return once("sft", lambda directory: sft.train(SFTConfig(output_dir=str(directory), disable_tqdm=True, **options)))


@pytest.fixture(scope="session")
def ruled(small_data: Path, sft_run: Path) -> dict[str, Any]:
    """Options of a graded stage whose grader is a rule, which needs no model."""
    options = {"dataset_name": str(small_data), "labels": LABELS, "sft_model_path": str(sft_run), "disable_tqdm": True}
    return {**options, "grader": "rule:Yes", "allow_weak_grader": True}


@pytest.fixture(scope="session")
def stopped_ppo(tmp_path_factory: pytest.TempPathFactory, ruled: dict[str, Any]) -> Any:
    """The PPOConfig that resumes a PPO after update 5 of 10. Its directory is shared: copy it before a change."""
    from stopping import stopped

    from eightball_ppo.config.methods import PPOConfig
    from eightball_ppo.methods.defaults import fitting
    from eightball_ppo.methods.run_method import run_method

    root = tmp_path_factory.mktemp("stopped")
    options: dict[str, Any] = {"num_mini_batches": 2, "num_ppo_epochs": 2, "per_device_train_batch_size": 24}
    options |= {"total_episodes": 240, "save_steps": 3, "log_completions": True}
    config = PPOConfig(**ruled, **options, output_dir=str(root / "run"), grade_store=str(root / "grades.sqlite3"))
    message = str(stopped(run_method, config, after=5))
    assert "SIGTERM after update 5 of 10" in message and "--resume_from_checkpoint true" in message
    return replace(fitting(config, "small", num_texts=60), resume_from_checkpoint="true")


@pytest.fixture
def copied_ppo(stopped_ppo: Any, tmp_path: Path) -> Any:
    """`stopped_ppo` in tmp_path/run, to be damaged or resumed."""
    shutil.copytree(f"{stopped_ppo.output_dir}.unfinished", tmp_path / "run.unfinished")
    return replace(stopped_ppo, output_dir=str(tmp_path / "run"))


@pytest.fixture(scope="session")
def ppo_run(once: Callable[..., Path], small_data: Path, sft_run: Path, reward_run: Path) -> Path:
    """A finished PPO run of one update; its grade store lies beside it."""
    from eightball_ppo.config.methods import PPOConfig
    from eightball_ppo.methods.run_method import run_method

    def make(directory: Path) -> None:
        options: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "total_episodes": 240}
        options |= {"sft_model_path": str(sft_run), "reward_model_path": str(reward_run)}
        options |= {"grade_store": str(directory.parent / "grades.sqlite3"), "disable_tqdm": True}
        run_method(PPOConfig(output_dir=str(directory), **options))

    return once("ppo", make)


@pytest.fixture(scope="session")
def reward_run(once: Callable[..., Path], small_data: Path) -> Path:
    from eightball_ppo.methods import reward_model

    options: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "disable_tqdm": True}
    options |= {"num_train_epochs": 3}
    return once("reward", lambda path: reward_model.train(RewardConfig(output_dir=str(path), **options)))


@pytest.fixture(scope="session")
def options(
    tmp_path_factory: pytest.TempPathFactory,
    once: Callable[..., Path],
    small_data: Path,
    sft_run: Path,
    reward_run: Path,
) -> Callable[..., Any]:
    """The options of a short run of a method, which reads one table of the reward model's grades."""
    from short_methods import METHODS

    from eightball_ppo.config import registry
    from eightball_ppo.config.stages import GradeConfig
    from eightball_ppo.graders import export

    def graded(directory: Path) -> None:
        store = str(directory.parent / "grades.sqlite3")
        asked: dict[str, Any] = {"reward_model_path": str(reward_run), "grade_store": store, "disable_tqdm": True}
        export.run(GradeConfig(dataset_name=str(small_data), output_dir=str(directory), **asked))

    table = once("grades", graded) / "grades.parquet"

    def make(method: str, **overrides: Any) -> Any:
        spec = registry.METHODS[method]
        directory = tmp_path_factory.mktemp("runs") / method
        settings: dict[str, Any] = {"output_dir": str(directory), "dataset_name": str(small_data), "labels": LABELS}
        settings |= {"sft_model_path": str(sft_run), "grade_table": str(table), "disable_tqdm": True}
        return spec.config_class(**{**settings, **spec.fixed, **METHODS[method], **overrides})

    return make


@contextmanager
def without_figures() -> Iterator[None]:
    """Figures take longer than short runs."""
    from eightball_ppo.report import plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "plot_curves", lambda *_: None)
        patch.setattr(plots, "plot_label_histogram", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, which asks no other host."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def no_figures() -> Iterator[None]:
    with without_figures():
        yield


@pytest.fixture
def packaged_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data in a small copy of the package with data sets, which is installed and must not be imported."""
    from packaged_files import write_package

    from eightball_ppo.data.columns import log_once

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    log_once.cache_clear()
    return write_package(tmp_path / "site")
