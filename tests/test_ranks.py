"""Two processes on one machine: equal weights and shared work in every training loop."""

import json
from collections import Counter
from pathlib import Path

import encoders
import pytest
import torch
from processes import torchrun as torchrun

import tiny
from eightball_ppo.functional.objective import optimum_fraction
from eightball_ppo.models.loading import load_classifier, table_logits_NK


@pytest.mark.parametrize("use_peft", [pytest.param(False, marks=pytest.mark.slow), True], ids=["all weights", "lora"])
def test_two_ranks_end_with_equal_weights_and_split_the_questions(use_peft: bool, tmp_path: Path) -> None:
    tiny.classifier().save_pretrained(tmp_path)
    encoders.tokenizer("bert").save_pretrained(tmp_path)
    done = torchrun("tests/two_ranks.py", *([str(tmp_path)] if use_peft else []))
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert first["processes"] == second["processes"] == 2
    for network in ("policy", "value", "reference", "logits", "rloo_logp"):
        assert first[network] == second[network]
    before_NK = table_logits_NK(tiny.classifier(), tiny.tokens(24))
    after_NK = torch.tensor(first["logits"])
    assert not torch.allclose(after_NK, before_NK, atol=1e-2)
    if use_peft:
        saved, _ = load_classifier(str(tmp_path / "policy"), "--sft_model_path")
        torch.testing.assert_close(table_logits_NK(saved, tiny.tokens(24)), after_NK, atol=1e-5, rtol=0)
    else:
        assert first["policy"] != first["reference"]
    # PPO samples every question twice an epoch, over both ranks together
    assert Counter(first["rows"] + second["rows"]) == dict.fromkeys(range(24), 2 * 4)
    logp_NK = torch.tensor(first["rloo_logp"])
    fraction = optimum_fraction(logp_NK, torch.full_like(logp_NK, 1 / 3).log(), tiny.scores(3), 0.5)
    assert fraction is not None and fraction > 0.95
    assert first["rloo_calls"] == second["rloo_calls"] == 9  # the ranks know of each other's calls


@pytest.mark.slow
def test_every_supervised_stage_ends_with_equal_weights_on_two_ranks(small_data: Path, tmp_path: Path) -> None:
    done = torchrun("tests/two_fits.py", str(small_data), str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    compared = json.loads(done.stdout.strip().splitlines()[-1])
    assert compared == [[stage, True, True] for stage in ("sft", "reward", "distill", "exact")]
