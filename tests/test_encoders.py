"""Any encoder as the policy: every architecture, all weights or LoRA, one copy in memory, saved and loaded."""

import copy
import shutil
from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
from eightball_ppo.data.pairs import join_pair
from eightball_ppo.errors import InputError
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.models.lora import adapters_off, with_lora
from eightball_ppo.models.saving import save_policy
from eightball_ppo.models.tokenization import TokenTable, max_input_length, set_max_length, token_table
from eightball_ppo.models.trainable import check_rates, freeze_lower_half, trainable_copy
from eightball_ppo.trl_adapters.build import TRLModels
from eightball_ppo.trl_adapters.value import SharedTrunk

TEXTS = ["Will I be rich?", "Is it raining in Rome, or will it rain tomorrow?", *(f"Game {i}?" for i in range(14))]
PASSAGE = "It has not rained for a week."
ALL_KINDS = [kind if kind == "bert" else pytest.param(kind, marks=pytest.mark.slow) for kind in encoders.KINDS]


def trained(model: Any, table: TokenTable, settings: Any, tmp_path: Path) -> tuple[TRLModels, list[dict[str, float]]]:
    """The adapters after PPO on random scores, and TRL's metrics."""
    models = tiny.trl_models(model, table, tiny.scores(len(table)), settings)
    logs = tiny.Logs()
    ppo.run_trainer(ppo.build_trainer(settings, models, 32, tmp_path, [logs]), settings)
    return models, logs.rows


@pytest.mark.parametrize("pair", [None, PASSAGE], ids=["one text", "two texts"])
@pytest.mark.parametrize("kind", encoders.KINDS)
def test_batched_logits_equal_those_of_one_text_at_a_time(kind: str, pair: str | None, tmp_path: Path) -> None:
    model, tokenizer = load_classifier(str(encoders.save(kind, tmp_path / "model")), "--sft_model_path")
    set_max_length(tokenizer, model, None)
    table = token_table([join_pair(t, pair) if pair else t for t in TEXTS], tokenizer, max_input_length(tokenizer))
    with torch.no_grad():
        alone_NK = torch.cat([model(**tokenizer(text, pair, return_tensors="pt")).logits for text in TEXTS])
    for by_length in (False, True):
        torch.testing.assert_close(predict_logits_NK(model, table, 5, by_length), alone_NK, atol=1e-6, rtol=0)
    has_types = pair is not None and kind not in encoders.NO_TOKEN_TYPES
    assert (table.types_S is not None) == has_types


@pytest.mark.parametrize("kind", encoders.KINDS)
def test_the_lower_half_of_an_encoder_is_its_embeddings_and_the_first_of_two_layers(kind: str, tmp_path: Path) -> None:
    model, _ = load_classifier(str(encoders.save(kind, tmp_path / "model")), "--model_name_or_path")
    freeze_lower_half(model)
    kept = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    trains = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if kind == "albert":  # one layer, used twice
        assert not kept
        return
    lower = [name for name in kept if "embeddings" not in name]
    assert len(lower) < len(kept) and lower and all("layer.0." in name or "layers.0." in name for name in lower)
    assert any(".1." in name for name in trains) and any("classifier" in name for name in trains)
    assert not any(".embeddings." in name or ".0." in name for name in trains)


@pytest.mark.parametrize("use_peft", [False, True], ids=["all weights", "lora"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_ppo_moves_the_policy_and_not_the_reference(kind: str, use_peft: bool, tmp_path: Path) -> None:
    model, tokenizer = load_classifier(str(encoders.save(kind, tmp_path / "model")), "--sft_model_path")
    set_max_length(tokenizer, model, None)
    table = token_table(TEXTS, tokenizer, max_input_length(tokenizer))
    before_NK = predict_logits_NK(model, table)
    size = sum(p.numel() for p in model.parameters())
    rate = 1e-3 if use_peft else 3e-4
    batch = {"repeats_per_epoch": 2, "num_mini_batches": 2, "total_episodes": 64}
    settings = tiny.config(use_peft=use_peft, learning_rate=rate, value_learning_rate=rate, **batch)
    models, rows = trained(model, table, settings, tmp_path)
    question_N1 = models.ids.question_ids(torch.arange(len(TEXTS))).unsqueeze(1)
    with torch.no_grad():
        assert torch.equal(models.reference(question_N1).logits[:, 0, 1:], before_NK)
    assert not torch.allclose(predict_logits_NK(models.policy.backbone.classifier, table), before_NK, atol=1e-3)
    assert rows[0]["objective/kl"] == 0.0  # the first answers are the reference's, to the last bit
    networks = (models.policy, models.reference, models.value)
    copies = sum({p.data_ptr(): p.numel() for network in networks for p in network.parameters()}.values()) / size
    assert copies < 1.2 if use_peft else 1.9 < copies < 2.1
    used = [p for p in models.policy.parameters() if p.requires_grad]
    torch.autograd.grad(models.policy(question_N1).logits.sum(), used)  # an unused parameter would stop DDP


def test_value_model_under_lora_computes_the_reference_summary_once(monkeypatch: MonkeyPatch) -> None:
    models = tiny.trl_models(tiny.classifier(), tiny.tokens(9), tiny.scores(9), tiny.config(use_peft=True))
    trunk = models.value.trunk
    assert isinstance(trunk, SharedTrunk) and not list(trunk.parameters())
    ids = models.ids.question_ids(torch.tensor([4, 2]))[:, None]
    with adapters_off(models.policy.backbone.classifier):
        hidden_BH = models.policy.backbone.summary_BH(ids)
    torch.testing.assert_close(trunk(ids).hidden_states[0][:, 0], hidden_BH)
    monkeypatch.setattr(trunk, "_summaries", lambda count: pytest.fail("computed again"))
    torch.testing.assert_close(trunk(ids.clone()).hidden_states[0][:, 0], hidden_BH)


@pytest.fixture
def trained_lora(tmp_path: Path) -> tuple[Path, Any, Any, Tensor, TokenTable]:
    """(directory of the base, policy under LoRA with changed adapters, tokenizer, its logits, their token table)"""
    base = encoders.save("bert", tmp_path / "base")
    model, tokenizer = load_classifier(str(base), "--sft_model_path")
    table = token_table(TEXTS, tokenizer, 32)
    policy = with_lora(model.requires_grad_(False), tiny.config(use_peft=True))
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    return base, policy, tokenizer, predict_logits_NK(policy, table), table


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_policy_under_lora_is_the_same_after_save_and_load(trained_lora: Any, merge: bool, tmp_path: Path) -> None:
    base, policy, tokenizer, logits_NK, table = trained_lora
    save_policy(policy, tokenizer, tmp_path / "policy", merge)
    assert (tmp_path / "policy" / "model.safetensors").is_file() == merge
    adapter = tmp_path / "policy" / ("adapter" if merge else "")
    saved, full = adapter / "adapter_model.safetensors", base / "model.safetensors"
    assert saved.stat().st_size < 0.2 * full.stat().st_size
    loaded, _ = load_classifier(str(tmp_path / "policy"), "--sft_model_path")
    torch.testing.assert_close(predict_logits_NK(loaded, table), logits_NK, atol=1e-5, rtol=0)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "policy").eval()
    torch.testing.assert_close(predict_logits_NK(stock, table), logits_NK, atol=1e-5, rtol=0)
    assert stock.config.id2label == {0: "Yes", 1: "No", 2: "Maybe"}


def test_adapters_of_another_base_are_refused(trained_lora: Any, tmp_path: Path) -> None:
    base, policy, tokenizer, _, _ = trained_lora
    save_policy(policy, tokenizer, tmp_path / "policy")
    encoders.save("bert", base, seed=1)
    with pytest.raises(InputError, match=r"adapters were trained on other weights than those of .*base now"):
        load_classifier(str(tmp_path / "policy"), "--sft_model_path")
    shutil.rmtree(base)
    with pytest.raises(InputError, match=r"its adapters need .*base, which is not here"):
        load_classifier(str(tmp_path / "policy"), "--sft_model_path")


def test_trainable_copy_under_lora_leaves_the_original_unchanged() -> None:
    original = tiny.classifier()
    kept = copy.deepcopy(original.state_dict())
    policy = trainable_copy(original, tiny.config(use_peft=True, lora_r=2))
    assert original.state_dict().keys() == kept.keys() and not hasattr(original, "peft_config")
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert {name.split(".")[-2] for name in names if "lora_A" in name} == {"default"}
    assert any("classifier" in name for name in names) and not any("embedding" in name for name in names)


def test_unknown_lora_target_modules_are_refused_and_the_linear_layers_listed(tmp_path: Path) -> None:
    model, _ = load_classifier(str(encoders.save("distilbert", tmp_path)), "--sft_model_path")
    with pytest.raises(InputError, match=r"--lora_target_modules query: .*linear layers .* are .*k_lin.*q_lin"):
        with_lora(model, tiny.config(use_peft=True, lora_target_modules=["query"]))


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    encoders.save("bert", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its tokenizer has no padding token"):
        load_classifier(str(tmp_path), "--sft_model_path")


def test_learning_rates_too_high_for_an_encoder_are_refused(tmp_path: Path) -> None:
    model, _ = load_classifier(str(encoders.save("bert", tmp_path)), "--sft_model_path")
    with pytest.raises(InputError, match=r"--learning_rate 0\.012: too high for all weights of a BertFor"):
        check_rates(model, tiny.config(learning_rate=0.012))
    with pytest.raises(InputError, match=r"--learning_rate 0\.012: too high for adapters on a BertFor"):
        check_rates(model, tiny.config(use_peft=True, learning_rate=0.012))
    check_rates(model, tiny.config(learning_rate=2e-5, value_learning_rate=2e-5))
    check_rates(model, tiny.config(use_peft=True, learning_rate=1e-3, value_learning_rate=1e-3))
    check_rates(tiny.classifier(), tiny.config(learning_rate=0.012))
