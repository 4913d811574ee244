"""Two processes on one machine: equal weights, shared work, one writer."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import encoders
import pytest
import torch

import tiny
from conftest import REPOSITORY
from eightball_ppo.models.loading import load_classifier, predict_logits_NK


def torchrun(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("use_peft", [pytest.param(False, marks=pytest.mark.slow), True], ids=["all weights", "lora"])
def test_ranks_end_with_equal_weights_and_split_the_questions(use_peft: bool, tmp_path: Path) -> None:
    tiny.classifier().save_pretrained(tmp_path)
    encoders.tokenizer("bert").save_pretrained(tmp_path)
    done = torchrun("tests/two_ranks.py", *([str(tmp_path)] if use_peft else []))
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert first["processes"] == second["processes"] == 2
    for model in ("policy", "value", "reference", "logits"):
        assert first[model] == second[model]
    before_NK = predict_logits_NK(tiny.classifier(), tiny.tokens(24))
    after_NK = torch.tensor(first["logits"])
    assert not torch.allclose(after_NK, before_NK, atol=1e-2)
    if use_peft:
        saved, _ = load_classifier(str(tmp_path / "policy"), "--sft_model_path")
        torch.testing.assert_close(predict_logits_NK(saved, tiny.tokens(24)), after_NK, atol=1e-5, rtol=0)
    else:
        assert first["policy"] != first["reference"]
    # every question twice a pass, over both ranks together
    assert Counter(first["rows"] + second["rows"]) == dict.fromkeys(range(24), 2 * 4)


def test_every_stage_that_fits_ends_with_equal_weights(small_data: Path, tmp_path: Path) -> None:
    done = torchrun("tests/two_fits.py", str(small_data), str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    compared = json.loads(done.stdout.strip().splitlines()[-1])
    assert compared == [[stage, True, True] for stage in ("sft", "reward", "distill", "exact")]
