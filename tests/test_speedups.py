"""The norm of all gradients is torch's own, however large the model is."""

import pytest
import torch
from pytest import MonkeyPatch

from eightball_ppo.training import grad_norm


@pytest.mark.parametrize("wide", [3, 400])
def test_norm_of_all_gradients_equals_torchs(wide: int, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm, "SMALL_MODEL_PARAMS", 1000)
    gradients = [torch.randn(wide, 2), torch.randn(wide), torch.randn(1)]
    torch.testing.assert_close(grad_norm.total_norm(gradients), torch.nn.utils.get_total_norm(gradients))
    gradients[1][0] = torch.inf
    assert not torch.isfinite(grad_norm.total_norm(gradients))
