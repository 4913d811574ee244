"""How much padding goes through a reward model: counted in tokens, not in seconds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from transformers import BertForSequenceClassification

from conftest import LABELS, read_rows
from eightball_ppo.config.stages import RewardConfig
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import reward_model
from eightball_ppo.training.length_sampler import LengthBucketSampler


class Counted:
    """Tokens in all inputs of a model, the padding included, and without it."""

    def __init__(self, monkeypatch: MonkeyPatch):
        self.padded = self.real = 0
        forward = BertForSequenceClassification.forward

        def counting(model: Any, *args: Any, **inputs: Any) -> Any:
            self.padded += inputs["input_ids"].numel()
            self.real += int(inputs["attention_mask"].sum())
            return forward(model, *args, **inputs)

        monkeypatch.setattr(BertForSequenceClassification, "forward", counting)


@pytest.mark.slow
def test_grading_pads_little_and_keeps_the_order(monkeypatch: MonkeyPatch) -> None:
    texts = [row["question"] for row in read_rows("heldout")[:192]]
    texts[7] = " ".join(texts[7:10])  # a long one makes only its own batch wide
    grader = BertGrader.random_head(LabelSet.of(LABELS), seed=1)
    counted = Counted(monkeypatch)
    logp_BK = grader.logp_BK(texts)
    assert counted.real <= counted.padded <= 1.2 * counted.real
    for i in (0, 7, 150, 191):
        torch.testing.assert_close(logp_BK[i], grader.logp_BK([texts[i]])[0], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_reward_batches_hold_similar_lengths(small_data: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    options: dict[str, Any] = {"dataset_name": str(small_data), "labels": LABELS, "num_train_epochs": 1}
    reward_model.train(RewardConfig(output_dir=str(tmp_path / "reward"), disable_tqdm=True, **options))
    assert counted.real <= counted.padded <= 1.4 * counted.real  # 1.64 in random batches


def test_every_row_comes_once_in_another_order_every_epoch() -> None:
    order = LengthBucketSampler(
        torch.randint(5, 32, (638,), generator=torch.Generator().manual_seed(0)), batch_size=16, seed=0
    )
    first = list(order)
    order.set_epoch(1)
    assert sorted(first) == sorted(order) == list(range(638)) and first != list(order)
