"""The small classifier: padding, sizes, save and load with and without this package's import."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import tiny
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification, PooledSelfAttention


def test_default_sizes_are_those_of_the_original() -> None:
    model = EightBallForSequenceClassification(EightBallConfig(num_labels=3))
    assert model.embedding.weight.shape == (30522, 16)
    assert model.attention.num_heads == 2 and model.attention.qkv.weight.shape == (48, 16)
    assert model.hidden.weight.shape == (32, 16) and model.classifier.weight.shape == (3, 32)


def test_a_new_embedding_has_the_spread_of_its_config_and_padding_is_zero() -> None:
    torch.manual_seed(0)
    for spread in (0.1, 1.0):
        embedding = EightBallForSequenceClassification(EightBallConfig(initializer_range=spread)).embedding
        assert abs(embedding.weight.std().item() / spread - 1) < 0.01
        assert not embedding.weight[0].any()


def test_a_classifier_saved_without_the_spread_loads_with_its_numbers(tmp_path: Path) -> None:
    model, inputs = tiny.classifier(), tiny.tokens(5).rows(torch.arange(5))
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    assert settings.pop("initializer_range") == 0.1
    file.write_text(json.dumps(settings))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_pooled_attention_is_attention_then_mean() -> None:
    """Against `torch.nn.MultiheadAttention` with the same weights, then the mean over real tokens."""
    torch.manual_seed(0)
    ours, torchs = PooledSelfAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torchs.in_proj_weight.data.copy_(ours.qkv.weight)
    torchs.in_proj_bias.data.copy_(ours.qkv.bias)
    torchs.out_proj.load_state_dict(ours.out.state_dict())
    x_BTE, mask_BT = torch.randn(5, 7, 8), torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]
    attended_BTE, _ = torchs(x_BTE, x_BTE, x_BTE, key_padding_mask=~mask_BT)
    mean_BE = (attended_BTE * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
    torch.testing.assert_close(ours(x_BTE, mask_BT), mean_BE, atol=1e-6, rtol=1e-5)


def test_save_and_load_by_auto_classes_keep_the_logits(tmp_path: Path) -> None:
    model, inputs = tiny.classifier(), tiny.tokens(5).rows(torch.arange(5))
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "EightBallConfig"
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert not list(tmp_path.glob("*.bin"))
    assert torch.isfinite(model(input_ids=torch.zeros(2, 4, dtype=torch.long)).logits).all()  # padding alone
