"""A classifier whose encoder is a fixed reader: what the head reads is computed once per text, and the head trains.

Letters: B texts of a batch, N texts in all, H width of the features, K labels.
"""

import copy
import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from eightball_ppo.models.modeling_mean_pooled import MeanPooledForSequenceClassification
from eightball_ppo.models.precision import last_linear
from eightball_ppo.models.tokenization import TokenTable


class FrozenEncoder:
    """Goes in front of a classifier's class: a batch may bring `features` [B, H] in place of token ids."""

    def forward(self, input_ids: Tensor | None = None, features: Tensor | None = None, **inputs: Any) -> Any:
        """The classifier's output; of `features`, with these as the hidden state [B, 1, H]."""
        if features is None:
            return super().forward(input_ids=input_ids, **inputs)  # type: ignore[misc]
        logits_BK, labels_B = head_of(self)(features), inputs.get("labels")
        loss = None if labels_B is None else nn.functional.cross_entropy(logits_BK, labels_B)
        output = SequenceClassifierOutput(loss=loss, logits=logits_BK, hidden_states=(features.unsqueeze(1),))
        return output.to_tuple() if inputs.get("return_dict") is False else output

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenEncoder":
        """A copy with a head of its own; the encoder's weights never change, so copies share them."""
        trained = {id(parameter) for parameter in head_of(self).parameters()}
        memo |= {id(weight): weight for weight in self.parameters() if id(weight) not in trained}  # type: ignore[attr-defined]
        memo[id(self)] = twin = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def freeze_encoder(classifier: PreTrainedModel) -> PreTrainedModel:
    """Makes the encoder of `classifier` a fixed reader, in place; what is saved is the same kind of model as before."""
    kind = type(classifier)
    if not isinstance(classifier, FrozenEncoder):
        classifier.__class__ = type(kind.__name__, (FrozenEncoder, kind), {"__module__": kind.__module__})
    train_head_alone(classifier)
    return classifier


def is_frozen(classifier: nn.Module) -> bool:
    """Whether `freeze_encoder` was applied."""
    return isinstance(classifier, FrozenEncoder)


def train_head_alone(classifier: PreTrainedModel) -> None:
    """Lets gradients reach the head and no other weight."""
    classifier.requires_grad_(False)
    head_of(classifier).requires_grad_(True)


def head_of(classifier: PreTrainedModel) -> nn.Module:
    """What reads the features: the head of a mean-pooled classifier, of another its last linear layer."""
    if isinstance(classifier, MeanPooledForSequenceClassification):
        return classifier.classifier
    return last_linear(classifier, "--freeze_encoder")


def with_features(classifier: PreTrainedModel, table: TokenTable, batch_size: int = 64) -> TokenTable:
    """`table` with what the head reads of each text, if the encoder is frozen; else `table`.

    The features of the last tables are kept in memory: the runs of a comparison read the same texts with one encoder.

    Args:
        classifier: The classifier, in eval mode.
        table: The tokens of N texts.
        batch_size: Texts of a forward pass; those of similar length go together.
    """
    if not is_frozen(classifier):
        return table
    key = _features_key(classifier, table)
    if (features_NH := _KEPT.pop(key, None)) is None:
        features_NH = _features_NH(classifier, table, batch_size)
    _KEPT[key] = features_NH  # the newest last
    for oldest in list(_KEPT)[:-MAX_KEPT]:
        del _KEPT[oldest]
    return replace(table, features_NH=features_NH)


_KEPT: dict[str, Tensor] = {}
MAX_KEPT = 4  # tables


def _features_key(classifier: PreTrainedModel, table: TokenTable) -> str:
    """A hash of the encoder's weights and of the token ids."""
    trained = {id(parameter) for parameter in head_of(classifier).parameters()}
    weights = [tensor for _, tensor in sorted(classifier.named_parameters()) if id(tensor) not in trained]
    weights += [tensor for _, tensor in sorted(classifier.named_buffers())]
    parts = [table.ids_S, table.length_N, *([] if table.types_S is None else [table.types_S])]
    digest = hashlib.sha256(type(classifier).__name__.encode())
    for tensor in (*weights, *parts):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _features_NH(classifier: PreTrainedModel, table: TokenTable, batch_size: int) -> Tensor:
    device, length_N = next(classifier.parameters()).device, table.length_N
    tokens, read = table.to(device), []
    hook = head_of(classifier).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float().cpu()))
    order_N = length_N.argsort(stable=True)
    try:
        for rows_B in order_N.split(batch_size):
            classifier(**tokens.rows(rows_B.to(device), int(length_N[rows_B].max())))
    finally:
        hook.remove()
    features_NH = torch.empty(len(table), read[0].shape[1])
    features_NH[order_N] = torch.cat(read)
    return features_NH
