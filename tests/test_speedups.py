"""The norm of all gradients is torch's own, however large the model is."""

import pytest
import torch

from eightball_ppo.training import grad_norm


@pytest.mark.parametrize("wide", [3, 400])
def test_the_norm_of_all_gradients_is_torchs_own(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm, "SMALL_MODEL_PARAMS", 1000)
    own = [torch.randn(wide, 2), torch.randn(wide), torch.randn(1)]
    torch.testing.assert_close(grad_norm.total_norm(own), torch.nn.utils.get_total_norm(own))
    own[1][0] = torch.inf
    assert not torch.isfinite(grad_norm.total_norm(own))
