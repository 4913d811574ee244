"""The classifier that best of n saves: stored logits for graded questions, those of its base for others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import tiny
from eightball_ppo.models.modeling_lookup import LookupForSequenceClassification


def lookup_model() -> tuple[Any, Any, list[list[int]], Tensor]:
    """(the model, its base, three stored questions of different lengths, their logits)."""
    base, rows = tiny.classifier(), [[5, 6, 7], [9], [5, 6]]
    logits_MK = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0], [9.0, 8.0, -7.0]])
    return LookupForSequenceClassification.from_base(base, rows, logits_MK), base, rows, logits_MK


def padded(rows: list[list[int]], width: int, pad: int = 0) -> tuple[Tensor, Tensor]:
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows]), mask_BT


@pytest.mark.parametrize(("width", "pad"), [(3, 0), (4, 7), (9, 0)])
def test_stored_questions_get_stored_logits_and_others_those_of_the_base(width: int, pad: int) -> None:
    model, base, rows, logits_MK = lookup_model()
    asked = [[5, 7, 6], rows[2], [5], rows[0], [7, 9], rows[1], [6, 5]]  # parts and permutations are not stored
    ids_BT, mask_BT = padded(asked, width, pad)
    logits_BK = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert torch.equal(logits_BK[[3, 5, 1]], logits_MK)
    torch.testing.assert_close(logits_BK[[0, 2, 4, 6]], base(ids_BT, attention_mask=mask_BT).logits[[0, 2, 4, 6]])


def test_questions_longer_or_shorter_than_all_stored_ones() -> None:
    model, base, _, logits_MK = lookup_model()
    ids_BT, mask_BT = padded([[9], [8]], 1)
    logits_BK = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert torch.equal(logits_BK[0], logits_MK[1]) and not torch.equal(logits_BK[1], logits_MK[1])
    long_BT, mask_BT = padded([[5, 6, 7, 8, 9], [5, 6, 7]], 5)
    logits_BK = model(input_ids=long_BT, attention_mask=mask_BT).logits
    assert torch.equal(logits_BK[1], logits_MK[0])
    torch.testing.assert_close(logits_BK[:1], base(input_ids=long_BT[:1]).logits)
    without_mask_BK = model(input_ids=long_BT).logits  # then every id but the padding one is real
    torch.testing.assert_close(without_mask_BK, logits_BK)


@pytest.mark.parametrize("kind", ["eightball", "bert"])
def test_save_and_load_keep_the_stored_logits(kind: str, tmp_path: Path) -> None:
    model, base, *_ = lookup_model()
    if kind == "bert":
        names = {0: "a", 1: "b", 2: "c"}
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = BertConfig(vocab_size=40, **sizes, id2label=names, label2id={v: k for k, v in names.items()})
        base = BertForSequenceClassification(config).eval()
        model = LookupForSequenceClassification.from_base(
            base, [[5, 6, 7], [9]], torch.tensor([[1.0, 2, 3], [4, 0, 0]])
        )
    ids_BT, mask_BT = padded([[9], [5, 6, 7], [1, 2]], 3)
    before_BK = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "LookupConfig"
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is LookupForSequenceClassification and type(again.base) is type(base)
    assert again.config.id2label == base.config.id2label and not again.training
    assert torch.equal(again(input_ids=ids_BT, attention_mask=mask_BT).logits, before_BK)
    torch.testing.assert_close(before_BK[2:], base(input_ids=ids_BT, attention_mask=mask_BT).logits[2:])
