"""The small classifier with PyTorch's layers; it computes the same numbers as our model."""

import torch
from torch import Tensor, nn

from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification

from .task import PAD, BenchTask


class Trunk(nn.Module):
    """Embedding, `nn.MultiheadAttention`, mean over the real tokens, one hidden layer: ids [B, T] to [B, H]."""

    def __init__(self, start: EightBallForSequenceClassification):
        super().__init__()
        sizes, weights = start.config, start.state_dict()
        width = sizes.embedding_size
        self.embedding = nn.Embedding(sizes.vocab_size, width, padding_idx=PAD)
        self.attention = nn.MultiheadAttention(width, sizes.num_attention_heads, batch_first=True)
        self.hidden = nn.Linear(width, sizes.hidden_size)
        self.load_state_dict(
            {
                "embedding.weight": weights["embedding.weight"],
                "attention.in_proj_weight": weights["attention.qkv.weight"],
                "attention.in_proj_bias": weights["attention.qkv.bias"],
                "attention.out_proj.weight": weights["attention.out.weight"],
                "attention.out_proj.bias": weights["attention.out.bias"],
                "hidden.weight": weights["hidden.weight"],
                "hidden.bias": weights["hidden.bias"],
            }
        )

    def forward(self, ids_BT: Tensor) -> Tensor:
        pad_BT = ids_BT == PAD
        x_BTE = self.embedding(ids_BT)
        x_BTE, _ = self.attention(x_BTE, x_BTE, x_BTE, key_padding_mask=pad_BT, need_weights=False)
        real_BT1 = (~pad_BT).unsqueeze(-1)
        pooled_BE = (x_BTE * real_BT1).sum(1) / real_BT1.sum(1)
        return torch.relu(self.hidden(pooled_BE))


class Policy(nn.Module):
    """Logits [B, K] of ids [B, T]."""

    def __init__(self, task: BenchTask):
        super().__init__()
        start = task.classifier()
        self.trunk = Trunk(start)
        self.head = start.classifier

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.head(self.trunk(ids_BT))


class Value(nn.Module):
    """Values [B] of ids [B, T]: a separate trunk under a head of zeros."""

    def __init__(self, task: BenchTask):
        super().__init__()
        start = task.classifier()
        self.trunk = Trunk(start)
        self.head = nn.Linear(start.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.head(self.trunk(ids_BT)).squeeze(-1)


@torch.no_grad()
def logits_NK(policy: nn.Module, task: BenchTask) -> Tensor:
    """Logits of all questions."""
    return policy(task.ids_NT)
