"""A classifier with a table of logits. Self-contained: this file travels to the Hub beside the weights.

Letters: B questions, T tokens, K labels, M questions in the table.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_eightball import EightBallConfig
from .configuration_lookup import LookupConfig
from .configuration_mean_pooled import MeanPooledConfig
from .modeling_eightball import EightBallForSequenceClassification
from .modeling_mean_pooled import MeanPooledForSequenceClassification


class LookupForSequenceClassification(PreTrainedModel):
    """Logits from a table for a question whose tokens are in it, and the base classifier's for any other.

    Args:
        config ([`LookupConfig`]): The base classifier's configuration and the size of the table.
    """

    config_class = LookupConfig

    def __init__(self, config: LookupConfig):
        super().__init__(config)
        base = dict(config.base)
        kind = base.pop("model_type")
        if kind == EightBallConfig.model_type:  # the Auto classes know it and the next by our package alone
            self.base = EightBallForSequenceClassification(EightBallConfig(**base))
        elif kind == MeanPooledConfig.model_type:
            self.base = MeanPooledForSequenceClassification(MeanPooledConfig(**base))
        else:
            # imported here: the package registers this file once the Auto classes are loaded, and needs all of it then
            from transformers import AutoConfig, AutoModelForSequenceClassification

            self.base = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **base))
        self.register_buffer("memory_ids_MT", torch.zeros(config.memories, config.memory_length, dtype=torch.long))
        self.register_buffer("memory_logits_MK", torch.zeros(config.memories, config.num_labels))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: the base classifier has initialised itself."""

    @classmethod
    def from_base(
        cls, base: PreTrainedModel, token_rows: Sequence[Sequence[int]], logits_MK: Tensor
    ) -> "LookupForSequenceClassification":
        """A copy of `base` that answers the questions `token_rows` (without padding) with `logits_MK`."""
        shared = {name: getattr(base.config, name) for name in ("id2label", "label2id", "pad_token_id")}
        base_config = {name: value for name, value in base.config.to_dict().items() if name != "_name_or_path"}
        config = LookupConfig(base_config, len(token_rows), max(map(len, token_rows)), **shared)
        model = cls(config)
        model.base.load_state_dict(base.state_dict())
        for row, ids in enumerate(token_rows):
            model.memory_ids_MT[row, : len(ids)] = torch.tensor(ids) + 1  # 0 is no token: nothing is padded by accident
        model.memory_logits_MK.copy_(logits_MK)
        return model.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Logits [B, K] of token ids [B, T]; with `labels` [B] also their mean cross-entropy.

        Padding, where `attention_mask` is 0, must be on the right.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        ids_BT = (input_ids + 1) * attention_mask.long()
        longest = max(ids_BT.shape[1], self.config.memory_length)
        ids_BT = nn.functional.pad(ids_BT, (0, longest - ids_BT.shape[1]))
        memory_MT = nn.functional.pad(self.memory_ids_MT, (0, longest - self.config.memory_length))
        same_BM = torch.stack([(memory_MT == ids_T).all(-1) for ids_T in ids_BT])
        known_B, where_B = same_BM.max(-1)
        logits_BK, output = self.memory_logits_MK[where_B], {}
        if not known_B.all() or kwargs:  # states may be asked for
            output = self.base(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
            logits_BK = torch.where(known_B[:, None], logits_BK.to(output.logits), output.logits)
        loss = None if labels is None else nn.functional.cross_entropy(logits_BK, labels)
        found = SequenceClassifierOutput(
            loss=loss, logits=logits_BK, hidden_states=output.get("hidden_states"), attentions=output.get("attentions")
        )
        return found.to_tuple() if return_dict is False else found
