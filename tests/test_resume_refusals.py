"""What a checkpoint is refused for, and how the states of a training are stored."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest import LogCaptureFixture, MonkeyPatch
from safetensors.torch import load_file, save_file

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.atomic_io import DirectoryLock, _write_checksums
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.training.resume import find_resume_point
from eightball_ppo.training.state import PerRankState, RNGState, StateDict, States, load_states, write_states


def refusal(config: PPOConfig) -> str:
    with pytest.raises(InputError) as error:
        find_resume_point(config, "ppo")
    return str(error.value)


def flip_a_bit(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "training/state.safetensors", "training/state.json"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_taken(
    name: str, damage: Callable[[Path], object], copied_ppo: PPOConfig, caplog: LogCaptureFixture
) -> None:
    unfinished = Path(f"{copied_ppo.output_dir}.unfinished")
    file = unfinished / "checkpoint-5" / name
    damage(file)
    damaged = replace(copied_ppo, resume_from_checkpoint=str(unfinished / "checkpoint-5"))
    assert refusal(damaged).startswith(f"{file}: ")
    with caplog.at_level(logging.INFO):
        found = find_resume_point(copied_ppo, "ppo")
    assert found is not None and found.path.name == "checkpoint-3"
    assert f"{file}: " in caplog.text and str(unfinished / "checkpoint-3") in caplog.text
    damage(unfinished / "checkpoint-3" / name)
    assert refusal(copied_ppo).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("checkpoint-5/complete.json", Path.unlink, "complete.json: missing or damaged"),
        ("metrics.jsonl", lambda file: file.write_bytes(file.read_bytes()[:100]), "metrics.jsonl: is shorter than"),
    ],
)
def test_a_checkpoint_without_its_checksums_or_metrics_is_refused(
    name: str, damage: Callable[[Path], object], message: str, copied_ppo: PPOConfig, tmp_path: Path
) -> None:
    unfinished = tmp_path / "run.unfinished"
    damage(unfinished / name)
    assert message in refusal(replace(copied_ppo, resume_from_checkpoint=str(unfinished / "checkpoint-5")))


@pytest.mark.parametrize("damage", [{"progress": None}, {"config": []}, {"states": None}, {"inputs": 3}])
def test_an_edited_header_with_new_checksums_is_refused(copied_ppo: PPOConfig, damage: dict[str, Any]) -> None:
    for path in checkpoints_in(Path(f"{copied_ppo.output_dir}.unfinished")):
        file = path / "training" / "state.json"
        header = {**json.loads(file.read_text()), **damage}
        file.write_text(json.dumps({name: value for name, value in header.items() if value is not None}))
        (path / "complete.json").unlink()
        _write_checksums(path)
    assert "training/state.json is damaged" in refusal(copied_ppo)


def test_checkpoint_of_another_run_is_refused(copied_ppo: PPOConfig, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    assert "was made with --kl_coef 0.1, not 0.2" in refusal(replace(copied_ppo, kl_coef=0.2))
    assert "was made with --log_completions True, not False" in refusal(replace(copied_ppo, log_completions=False))
    assert find_resume_point(replace(copied_ppo, save_steps=7, report_to="tensorboard"), "ppo") is not None
    with pytest.raises(InputError, match="is of ppo, not of rloo"):
        find_resume_point(copied_ppo, "rloo")
    assert str(tmp_path) in refusal(replace(copied_ppo, resume_from_checkpoint=str(tmp_path)))
    for function, value, message in (
        ("num_processes", lambda: 2, "was made by 1 processes, and there are 2"),
        ("mixed_precision", lambda: "bf16", "was made with --mixed_precision no, not bf16"),
        ("FORMAT", 1000, "checkpoint-5: was written by another version"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"eightball_ppo.training.resume.{function}", value)
            assert message in refusal(copied_ppo)


def test_another_reference_or_grader_is_refused(copied_ppo: PPOConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was made with --grader rule:Yes, not rule:No"):
        run_method(replace(copied_ppo, grader="rule:No"))
    other = tmp_path / "sft"
    shutil.copytree(copied_ppo.sft_model_path, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: w + 1e-3 for name, w in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"was made with --sft_model_path .*, not .*sft"):
        run_method(replace(copied_ppo, sft_model_path=str(other)))
    for path in checkpoints_in(tmp_path / "run.unfinished"):  # the same path, and other weights in it
        file = path / "training" / "state.json"
        file.write_text(file.read_text().replace(json.dumps(copied_ppo.sft_model_path), json.dumps(str(other))))
        (path / "complete.json").unlink()
        _write_checksums(path)
    with pytest.raises(InputError, match=r"checkpoint-5: was made with another reference \(--sft_model_path\)"):
        run_method(replace(copied_ppo, sft_model_path=str(other)))
    assert [p.name for p in checkpoints_in(tmp_path / "run.unfinished")] == ["checkpoint-3", "checkpoint-5"]


def test_no_checkpoint_to_resume_from_and_one_that_would_be_overwritten(copied_ppo: PPOConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--resume_from_checkpoint true: .*new.unfinished holds no checkpoint"):
        run_method(replace(copied_ppo, output_dir=str(tmp_path / "new")))
    with pytest.raises(InputError, match=r"run.unfinished .*--resume_from_checkpoint true"):
        run_method(replace(copied_ppo, resume_from_checkpoint=None))


def test_two_runs_in_one_directory_are_refused(copied_ppo: PPOConfig, tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "run.unfinished")
    for config in (copied_ppo, replace(copied_ppo, resume_from_checkpoint=None, overwrite_output_dir=True)):
        with pytest.raises(InputError, match=r"run.unfinished: another run is at work there"):
            run_method(config)
    lock.close()
    DirectoryLock(tmp_path / "run.unfinished").close()


# --- the states of a training


def test_states_are_loaded_in_order_so_that_random_numbers_continue(tmp_path: Path) -> None:
    class Drawing:
        """Draws from every generator while it is loaded."""

        def state_dict(self) -> StateDict:
            return {"nested": {"rows": [1, 2.5, None]}, "half": torch.arange(3).half()}

        def load_state_dict(self, state: StateDict) -> None:
            self.loaded = state
            draw()

    def draw() -> list[Any]:
        return [torch.rand(3).tolist(), np.random.normal(), np.random.random(), random.gauss(0, 1), random.random()]

    draw()  # numpy and Python draw normal numbers in pairs and keep the second
    drawing = Drawing()
    states: States = [("drawing", drawing), ("rng", PerRankState(RNGState()))]
    write_states(tmp_path, {name: state.state_dict() for name, state in states}, {"format": 0})
    expected = draw()
    load_states(tmp_path, states)
    assert draw() == expected
    assert drawing.loaded["nested"] == {"rows": [1, 2.5, None]}
    assert torch.equal(drawing.loaded["half"], torch.arange(3).half())
