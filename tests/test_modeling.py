"""The small classifier: padding, sizes, save and load with and without this package's import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import tiny
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification, PooledSelfAttention


def test_sizes_are_the_originals() -> None:
    model = EightBallForSequenceClassification(EightBallConfig(num_labels=3))
    assert model.embedding.weight.shape == (30522, 16)
    assert model.attention.num_heads == 2 and model.attention.qkv.weight.shape == (48, 16)
    assert model.hidden.weight.shape == (32, 16) and model.classifier.weight.shape == (3, 32)


def test_padding_is_neither_attended_to_nor_pooled() -> None:
    model, table = tiny.classifier(), tiny.tokens(20, length=9)
    inputs = table.rows(torch.arange(20))
    ids_NT, mask_NT = inputs["input_ids"], inputs["attention_mask"]
    padded_NK = model(**inputs).logits
    for row, length in enumerate(mask_NT.sum(1).tolist()):
        alone_1K = model(input_ids=ids_NT[row : row + 1, :length]).logits
        torch.testing.assert_close(padded_NK[row : row + 1], alone_1K, atol=1e-6, rtol=0)
    garbage = ids_NT.masked_fill(mask_NT == 0, 7)
    again_NK = model(input_ids=garbage, attention_mask=mask_NT).logits
    torch.testing.assert_close(again_NK, padded_NK, atol=1e-6, rtol=0)


def test_pooled_attention_is_attention_then_mean() -> None:
    """Against `torch.nn.MultiheadAttention` with the same weights, then the mean over real tokens."""
    torch.manual_seed(0)
    ours, theirs = PooledSelfAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x_BTE, mask_BT = torch.randn(5, 7, 8), torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]
    attended_BTE, _ = theirs(x_BTE, x_BTE, x_BTE, key_padding_mask=~mask_BT)
    mean_BE = (attended_BTE * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
    torch.testing.assert_close(ours(x_BTE, mask_BT), mean_BE, atol=1e-6, rtol=1e-5)


def test_a_question_of_padding_alone_gives_finite_logits() -> None:
    assert torch.isfinite(tiny.classifier()(input_ids=torch.zeros(2, 4, dtype=torch.long)).logits).all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="must divide"):
        EightBallConfig(embedding_size=16, num_attention_heads=3)


def test_auto_classes_know_it_and_save_and_load_keep_the_logits(tmp_path: Path) -> None:
    model, inputs = tiny.classifier(), tiny.tokens(5).rows(torch.arange(5))
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "EightBallConfig"
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(
    "imports",
    [
        "import eightball_ppo; from transformers import AutoModelForSequenceClassification as A; trust = {}",
        "from transformers import AutoModelForSequenceClassification as A; import eightball_ppo; trust = {}",
        "import sys; sys.modules['eightball_ppo'] = None\n"
        "from transformers import AutoModelForSequenceClassification as A; trust = {'trust_remote_code': True}",
    ],
    ids=["ours first", "transformers first", "without the package"],
)
def test_a_fresh_interpreter_loads_it(tmp_path: Path, imports: str) -> None:
    model, ids_1T = tiny.classifier(), tiny.tokens(1).rows(torch.arange(1))["input_ids"]
    model.save_pretrained(tmp_path / "policy")
    code = f"{imports}\nimport torch\nm = A.from_pretrained({str(tmp_path / 'policy')!r}, **trust)\n"
    code += f"print(m(input_ids=torch.tensor({ids_1T.tolist()})).logits.tolist())"
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = model(input_ids=ids_1T).logits
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, atol=1e-6, rtol=0)
