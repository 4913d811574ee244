"""An encoder, the mean over a text's real tokens, and a head. Self-contained: this file travels to the Hub.

Letters: B texts, T tokens, H hidden width, K labels.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_mean_pooled import MeanPooledConfig


class MeanPooledForSequenceClassification(PreTrainedModel):
    """Classifies a text by the mean of its token states (Reimers & Gurevych 2019, arXiv:1908.10084).

    Args:
        config ([`MeanPooledConfig`]): The encoder's configuration, the size of the head, and `id2label`.
    """

    config_class = MeanPooledConfig
    base_model_prefix = "encoder"

    def __init__(self, config: MeanPooledConfig):
        super().__init__(config)
        settings = dict(config.encoder)
        # imported here: the package registers this file once the Auto classes are loaded, and needs all of it then
        from transformers import AutoConfig, AutoModel

        self.encoder = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        width, hidden = self.encoder.config.hidden_size, config.head_hidden_size
        last = nn.Linear(hidden or width, config.num_labels)
        self.classifier = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), last) if hidden else last
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: encoder and head have initialised themselves."""

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
        request, is the mean as one position: [B, 1, H].
        """
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        state_BTH = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs)[0]
        mask_BT1 = attention_mask.unsqueeze(-1).to(state_BTH.dtype)
        mean_BH = (state_BTH * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        logits_BK = self.classifier(mean_BH)
        loss = None if labels is None else nn.functional.cross_entropy(logits_BK, labels)
        hidden_states = (mean_BH.unsqueeze(1),) if output_hidden_states else None
        if return_dict is False:
            return tuple(part for part in (loss, logits_BK, hidden_states) if part is not None)
        return SequenceClassifierOutput(loss=loss, logits=logits_BK, hidden_states=hidden_states)
