"""No forward pass and no score lookup waits for a number from the device: a spy records every operation."""

from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
from pytest import MonkeyPatch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.models import loading
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.tokenization import token_table

TEXTS = ["Will I be rich?", "Is it raining in Rome, or will it rain tomorrow?"]

READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.equal")


class Spy(TorchDispatchMode):
    """`waited`: the operations inside whose result Python has to wait for, as a number or as a size."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waited += [str(func)] if str(func).startswith(READS) else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert", "distilbert", "eightball"])
def test_forward_and_backward_do_not_synchronise(kind: str, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    if kind == "eightball":
        tiny.classifier().save_pretrained(tmp_path)
        encoders.tokenizer("bert").save_pretrained(tmp_path)
    else:
        encoders.save(kind, tmp_path)
    stock, tokenizer = loading.load_classifier(str(tmp_path), "--sft_model_path")
    monkeypatch.setattr(loading, "needs_always_mask", lambda: True)  # as where there is a GPU
    masked, _ = loading.load_classifier(str(tmp_path), "--sft_model_path")
    table = tiny.tokens(2, seed=3) if kind == "eightball" else token_table(TEXTS, tokenizer, 32)
    assert table.length_N[0] != table.length_N[1]
    grades = BudgetedScores(tiny.scores(2))
    policy = with_lora(masked.requires_grad_(False), tiny.config(use_peft=True))
    longest = int(table.length_N.argmax())
    for rows in ([0, 1], [longest, longest]):  # padded, and not
        rows_B = torch.tensor(rows)
        with Spy() as spy:
            logits_BK = policy(**table.rows(rows_B), output_hidden_states=True).logits
            logits_BK.sum().backward()
            grades(rows_B, logits_BK.argmax(-1))
        assert not spy.waited
        torch.testing.assert_close(logits_BK, stock(**table.rows(rows_B)).logits, atol=1e-6, rtol=0)
    policy.merge_and_unload().save_pretrained(tmp_path / "saved")
    assert "masked" not in (tmp_path / "saved" / "config.json").read_text()


def test_the_spy_records_the_synchronisation_of_transformers(tmp_path: Path) -> None:
    model, tokenizer = loading.load_classifier(str(encoders.save("bert", tmp_path)), "--sft_model_path")
    with Spy() as spy:
        model(**token_table(TEXTS, tokenizer, 32).rows(torch.tensor([0, 1])))
    assert set(spy.waited) == {"aten._local_scalar_dense.default"}  # harmless on a CPU
