"""`examples/ppo_loop.py` as a reader runs it; `tests/test_trl_parity.py` holds its loop against TRL's."""

import re
import sys
from pathlib import Path

import pytest
from pytest import CaptureFixture, MonkeyPatch

import ppo_loop
from conftest import EIGHTBALL
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.methods import sft


@pytest.mark.slow
def test_it_prints_its_share_of_the_optimum_beside_that_of_the_script(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "eightball").symlink_to(EIGHTBALL)
    sft.train(SFTConfig(num_train_epochs=1, disable_tqdm=True))
    argv = ["ppo_loop.py", "--grader", "rule:Maybe", "--kl_coef", "0.5", "--total_episodes", "4800"]
    monkeypatch.setattr(sys, "argv", argv)
    capsys.readouterr()
    ppo_loop.main()
    printed = capsys.readouterr().out
    assert printed.count("update ") == 4
    shares = re.findall(r"^(\w+): share of the optimum (\S+); of scripts/ppo.py (\S+)$", printed, re.M)
    assert [split for split, *_ in shares] == ["train", "heldout"], printed
    for _, ours, theirs in shares:
        assert 0.5 < float(ours) <= 1
        assert float(ours) == pytest.approx(float(theirs), abs=0.1)
