"""Scores made of log-probabilities: exact for probabilities that round to 0 or 1, and in memory linear in K."""

import math
import subprocess
import sys
from typing import get_args

import pytest
import torch

from eightball_ppo.config.graded import ScoreType
from eightball_ppo.graders.base import convert_scores

QUESTIONS, LABELS = 1000, 1000
MEASURE = f"""
import sys
from pathlib import Path
import torch
from eightball_ppo.graders.base import convert_scores

def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

logp_NK = torch.randn({QUESTIONS}, {LABELS}).log_softmax(-1)
for kind in sys.argv[1:]:
    convert_scores(logp_NK[:2], kind)
    before = peak_kb()
    convert_scores(logp_NK, kind)
    print(kind, peak_kb() - before)
"""


def log_odds(logp_K: list[float]) -> list[float]:
    """log p - log(sum of the other labels' p), label by label, by `math.fsum`."""
    odds = []
    for k, logp in enumerate(logp_K):
        others = logp_K[:k] + logp_K[k + 1 :]
        top = max(others)
        odds.append(logp - top - math.log(math.fsum(math.exp(other - top) for other in others)))
    return odds


@pytest.mark.parametrize("labels", [2, 3, 7, 1000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 300.0])
def test_logit_margin_is_the_log_odds_whatever_the_probabilities(labels: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(labels)
    logits_NK = scale * torch.randn(4, labels, generator=generator, dtype=torch.float64)
    logits_NK[0, :2] = logits_NK[0].max() + 1  # a tie at the top
    logp_NK = logits_NK.log_softmax(-1)
    expected_NK = torch.tensor([log_odds(logp_K) for logp_K in logp_NK.tolist()], dtype=torch.float64)
    torch.testing.assert_close(convert_scores(logp_NK, "logit_margin"), expected_NK, rtol=1e-12, atol=1e-12)
    single_NK = convert_scores(logp_NK.float(), "logit_margin")
    torch.testing.assert_close(single_NK.double(), expected_NK, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
def test_no_score_type_takes_more_than_ten_tables_at_a_thousand_labels() -> None:
    command = [sys.executable, "-c", MEASURE, *get_args(ScoreType)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    grown = dict(line.split() for line in lines)
    table_kb = QUESTIONS * LABELS * 4 / 1024
    assert set(grown) == set(get_args(ScoreType))
    assert all(int(kb) < 10 * table_kb for kb in grown.values()), grown
