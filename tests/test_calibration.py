"""Temperature scaling and calibration error."""

import pytest
import torch

from eightball_ppo.functional.calibration import expected_calibration_error, fit_temperature


def test_ece_by_hand() -> None:
    """Two answers at 0.9 of which one is right: gap 0.4; two at 0.6, both right: gap 0.4; each half of the data."""
    probability_NK = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert expected_calibration_error(probability_NK, torch.tensor([0, 1, 0, 0])) == pytest.approx(0.4, abs=1e-6)


def test_ece_is_zero_for_a_calibrated_and_large_for_an_overconfident_classifier() -> None:
    generator = torch.Generator().manual_seed(0)
    p_NK = torch.randn(50_000, 3, generator=generator).softmax(-1)
    label_N = torch.multinomial(p_NK, 1, generator=generator).squeeze(1)
    assert expected_calibration_error(p_NK, label_N) < 0.01
    assert expected_calibration_error((5 * p_NK.log()).softmax(-1), label_N) > 0.2


def test_temperature_recovers_the_one_that_was_applied() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NK = 2 * torch.randn(20_000, 4, generator=generator)
    label_N = torch.multinomial(logits_NK.softmax(-1), 1, generator=generator).squeeze(1)
    assert fit_temperature(logits_NK, label_N) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * logits_NK, label_N) == pytest.approx(3, abs=0.15)


def test_the_temperature_is_1_for_data_without_an_error() -> None:
    assert fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(1, abs=1e-3)
