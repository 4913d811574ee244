"""Shared fixtures: no network, one thread, small data, one small SFT run and one small reward run."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging as transformers_logging

from eightball_ppo.configs import RewardConfig, SFTConfig

settings.register_profile("any time", deadline=None)  # a busy machine, and first imports, are no failures
settings.load_profile("any time")

REPOSITORY = Path(__file__).parents[1]
EIGHTBALL = REPOSITORY / "datasets" / "eightball"


@pytest.fixture(autouse=True, scope="session")
def _quiet_and_single_threaded() -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default grade store, the default runs and whatever else is relative are the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Every connection that would leave this machine fails the test that makes it."""
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "unix"
        if host not in ("unix", "localhost", "::1") and not str(host).startswith("127."):
            raise AssertionError(f"a test connects to {address}")
        connect(self, address)  # type: ignore[arg-type]

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", only_loopback)
    yield
    patch.undo()


def read_rows(split: str) -> list[dict[str, str]]:
    """The rows of one embedded split."""
    return [json.loads(line) for line in (EIGHTBALL / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def write_rows(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def small_dataset(directory: Path) -> Path:
    """The first rows of every embedded split, in a directory of their own."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in (("sft", 40), ("rl", 60), ("preferences", 200), ("heldout", 40)):
        write_rows(directory / f"{split}.jsonl", read_rows(split)[:rows])
    return directory


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="session")
def sft_run(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    from eightball_ppo.methods import sft

    output_dir = tmp_path_factory.mktemp("runs") / "sft"
    config = SFTConfig(output_dir=str(output_dir), dataset_name=str(small_data), num_train_epochs=2, disable_tqdm=True)
    return sft.train(config)


@pytest.fixture(scope="session")
def reward_run(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    from eightball_ppo.methods import reward_model

    output_dir = tmp_path_factory.mktemp("runs") / "reward"
    config = RewardConfig(
        output_dir=str(output_dir), dataset_name=str(small_data), num_train_epochs=3, disable_tqdm=True
    )
    return reward_model.train(config)
