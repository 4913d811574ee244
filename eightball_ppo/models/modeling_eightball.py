"""The small classifier: embedding, one self-attention layer, masked mean pool, one hidden layer, logits.

Self-contained: this file and `configuration_eightball.py` travel to the Hub beside the weights.
Letters: B questions, T tokens, E embedding width, H hidden width, K labels, h heads, d = E / h, X = h B.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_eightball import EightBallConfig


class PooledSelfAttention(nn.Module):
    """Multi-head self-attention followed by the mean over the question's real tokens.

    Pooling commutes with the value and output projections, so the attention weights are averaged over the query tokens
    first: the same numbers as attention, then mean, with one context vector per head instead of T. The scores have the
    keys first, [h B, T keys, T queries]: a softmax over so few is twice as fast across rows as along them.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """`mask_BT` is True where a token is real. A question without any real token pools to the output bias."""
        return self.out(self.pooled(self.qkv(x_BTE), mask_BT))

    def pooled(self, qkv_BTF: Tensor, mask_BT: Tensor) -> Tensor:
        """What the heads found [B, E], of queries, keys and values, F = 3 E."""
        batch, tokens, _ = qkv_BTF.shape
        heads, depth = self.num_heads, self.out.in_features // self.num_heads
        by_head_BTxd = qkv_BTF.view(batch, tokens, 3 * heads, depth)
        q_XTd, k_XTd, v_XTd = by_head_BTxd.permute(2, 0, 1, 3).reshape(3, heads * batch, tokens, depth).unbind(0)

        real_XT1 = mask_BT.to(qkv_BTF.dtype).expand(heads, batch, tokens).reshape(heads * batch, tokens, 1)
        never_XT1 = (real_XT1 - 1) * -torch.finfo(qkv_BTF.dtype).min
        query_weight_XT1 = real_XT1 / real_XT1.sum(1, keepdim=True).clamp(min=1)
        score_XTT = torch.baddbmm(never_XT1, k_XTd, q_XTd.transpose(1, 2), alpha=depth**-0.5)
        pooled_XT1 = torch.bmm(score_XTT.softmax(1), query_weight_XT1)
        context_Xd1 = torch.bmm(v_XTd.transpose(1, 2), pooled_XT1)
        return context_Xd1.view(heads, batch, depth).transpose(0, 1).reshape(batch, heads * depth)


class EightBallForSequenceClassification(PreTrainedModel):
    """Classifies a question into K labels. Padding is neither attended to nor pooled.

    Args:
        config ([`EightBallConfig`]): Sizes, and `id2label` for the K label names.
    """

    config_class = EightBallConfig
    _input_embed_layer = "embedding"

    def __init__(self, config: EightBallConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.attention = PooledSelfAttention(config.embedding_size, config.num_attention_heads)
        self.hidden = nn.Linear(config.embedding_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput | tuple:
        """Logits [B, K] of token ids [B, T]; with `labels` [B] also the mean cross-entropy.

        `attention_mask` is 1 where a token is real; without it every id but `pad_token_id` is. The hidden state, on
        request, is the pooled summary as one position: [B, 1, H].
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        pooled_BE = self.attention(self.embedding(input_ids), attention_mask.bool())
        hidden_BH = torch.relu(self.hidden(pooled_BE))
        logits_BK = self.classifier(hidden_BH)
        loss = None if labels is None else nn.functional.cross_entropy(logits_BK, labels)
        hidden_states = (hidden_BH.unsqueeze(1),) if output_hidden_states else None
        if return_dict is False:
            return tuple(part for part in (loss, logits_BK, hidden_states) if part is not None)
        return SequenceClassifierOutput(loss=loss, logits=logits_BK, hidden_states=hidden_states)
