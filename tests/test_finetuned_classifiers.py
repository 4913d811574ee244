"""Untrained weights are refused, adapters are saved with the head that they need, and heads compute in float32."""

import json
from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

import tiny
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import sft
from eightball_ppo.models.finetuned import load_finetuned
from eightball_ppo.models.loading import load_classifier, load_new_classifier, predict_logits_NK
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.saving import save_adapter, save_policy
from eightball_ppo.models.tokenization import TokenTable, token_table

TEXTS = ["Will I be rich?", "Is it raining in Rome, or will it rain tomorrow?"]
LABELS = LabelSet.of(["Yes", "No", "Maybe"])


def with_changed_adapters(model: Any, scale: float = 0.1) -> Any:
    policy = with_lora(model.requires_grad_(False), tiny.config(use_peft=True))
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=scale)
    return policy


def load(directory: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, TokenTable]:
    model, tokenizer = load_classifier(str(directory), "--sft_model_path", dtype)
    return model, token_table(TEXTS, tokenizer, 32)


def headless(kind: str, directory: Path, auto: Any = AutoModel) -> Path:
    """An encoder of `kind` as it is published: without a head, or with that of its pretraining."""
    encoders.save(kind, directory)
    auto.from_config(AutoConfig.from_pretrained(directory)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_on_a_lora_policy_is_saved_against_the_original_base(dtype: torch.dtype, tmp_path: Path) -> None:
    logits = []
    source = encoders.save("bert", tmp_path / "base")
    for name in ("first", "second"):
        model, tokenizer = load_classifier(str(source), "--sft_model_path", dtype)
        policy = with_changed_adapters(model)
        logits.append(predict_logits_NK(policy, token_table(TEXTS, tokenizer, 32)))
        save_policy(policy, tokenizer, tmp_path / name)
        recorded = json.loads((tmp_path / name / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert recorded == str(source)
        source = tmp_path / name
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    for name, logits_NK in zip(("first", "second"), logits, strict=True):
        torch.testing.assert_close(predict_logits_NK(*load(tmp_path / name, dtype)), logits_NK, atol=tolerance, rtol=0)
    assert not torch.allclose(logits[0], logits[1], atol=0.05)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_an_encoder_without_a_trained_head_is_refused(kind: str, tmp_path: Path) -> None:
    headless(kind, tmp_path)
    for flag in ("--sft_model_path", "--reward_model_path"):
        with pytest.raises(InputError, match=rf"^{flag} .*not a fine-tuned classifier: classifier\..*eightball sft"):
            load_classifier(str(tmp_path), flag)


def test_adapters_save_a_new_head_and_are_refused_without_it(tmp_path: Path) -> None:
    base = headless("bert", tmp_path / "base")
    model, tokenizer, new = load_new_classifier(str(base), "--model_name_or_path", LABELS)
    policy = with_lora(model, tiny.config(use_peft=True), new)
    logits_NK = predict_logits_NK(policy, token_table(TEXTS, tokenizer, 32))
    save_policy(policy, tokenizer, tmp_path / "adapters")
    assert not (tmp_path / "adapters" / "base.json").exists()  # of a random head there is nothing to compare
    assert torch.equal(predict_logits_NK(*load(tmp_path / "adapters")), logits_NK)
    file = tmp_path / "adapters" / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "lora" in k}, file)
    with pytest.raises(InputError, match=r"neither its adapters nor their base .*classifier\.bias, classifier"):
        load(tmp_path / "adapters")


def test_a_new_pooler_is_saved_and_an_incomplete_encoder_is_refused(tmp_path: Path) -> None:
    base = headless("bert", tmp_path / "base", AutoModelForMaskedLM)  # these have no pooler
    model, _, new = load_new_classifier(str(base), "--model_name_or_path", LABELS)
    assert new == ["bert.pooler", "classifier"]
    policy = with_lora(model.requires_grad_(False), tiny.config(use_peft=True), new)
    save_adapter(policy, tmp_path / "adapter")
    assert any("pooler" in key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    weights = load_file(base / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layer.1." not in k}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"no whole encoder, it lacks bert\.encoder\.layer\.1\..* and 14 more"):
        load_new_classifier(str(base), "--model_name_or_path", LABELS)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "distilbert", "eightball"])
def test_in_bfloat16_the_head_computes_in_float32(kind: str, tmp_path: Path) -> None:
    if kind == "eightball":
        tiny.classifier().save_pretrained(tmp_path)
        encoders.tokenizer("bert").save_pretrained(tmp_path)
    else:
        encoders.save(kind, tmp_path)
    exact, _ = load(tmp_path)
    model, _ = load(tmp_path, torch.bfloat16)
    ids_BT = torch.tensor([[5, 6, 7], [8, 9, 0]])
    logits_BK = model(input_ids=ids_BT, attention_mask=ids_BT.clamp(max=1)).logits
    assert logits_BK.dtype == torch.float32 and not torch.equal(logits_BK, logits_BK.bfloat16().float())
    types = {name.split(".")[0]: p.dtype for name, p in model.named_parameters()}
    assert types["classifier"] == torch.float32 and torch.bfloat16 in types.values()
    head = {name: p for name, p in exact.named_parameters() if name.startswith("classifier.")}
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in head.items())
    policy = with_lora(model.requires_grad_(False), tiny.config(use_peft=True))
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(policy(input_ids=ids_BT, attention_mask=ids_BT.clamp(max=1)).logits, logits_BK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "deberta-v2", "modernbert", "distilbert", "mpnet"])
def test_sft_adds_and_saves_a_head_on_a_pretrained_encoder(kind: str, small_data: Path, tmp_path: Path) -> None:
    """`classifier`, and what a kind has in front of it (pooler, pre_classifier, head), are new, train and are saved."""
    base = headless(kind, tmp_path / "base")
    options: dict[str, Any] = {"dataset_name": str(small_data), "num_train_epochs": 1, "labels": list(LABELS.names)}
    run = sft.train(
        SFTConfig(output_dir=str(tmp_path / "run"), model_name_or_path=str(base), use_peft=True,
                  learning_rate=1e-3, disable_tqdm=True, **options)
    )  # fmt: skip
    model, table = load(run)
    logits_NK = predict_logits_NK(model, table)
    alone = load_finetuned(str(run / "adapter"), "adapter").eval()  # on the encoder as it was published
    torch.testing.assert_close(predict_logits_NK(alone, table), logits_NK, atol=1e-5, rtol=0)
    assert not (run / "adapter" / "base.json").exists()
    new = {name.split(".")[0] for name, _ in model.named_parameters()} - {model.base_model_prefix}
    saved = load_file(run / "adapter" / "adapter_model.safetensors")
    assert new <= {key.split(".")[2] for key in saved}
