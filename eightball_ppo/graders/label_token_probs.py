"""The probability that a language model goes on with certain words: the mechanics of grader llm.

What all prompts have in common is read once; a prompt then costs one forward pass of its own tokens, and a few tokens
more for words longer than one. Letters: B prompts in a batch, T their tokens, K sets of words, V vocabulary.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.errors import InputError
from eightball_ppo.graders.verbalizers import Verbalizers, word_variants

NEGLIGIBLE = 1e-6  # probability of a first token below which the rest of a word is not looked at
Tokens = tuple[int, ...]


class LabelTokenScorer:
    """Reads off `model` how likely each of K sets of token sequences is to come next.

    Args:
        sequences_K: as of `token_sequences`.
        examples: a few prompts, as token ids; what they have in common is read once and for all.
    """

    def __init__(self, model: PreTrainedModel, sequences_K: list[list[Tokens]], examples: Sequence[list[int]]):
        self._model = model
        self._sequences_K = sequences_K
        length = 0
        while all(len(ids) > length + 1 and ids[length] == examples[0][length] for ids in examples):
            length += 1
        self._prefix = examples[0][:length]
        self._prefix_cache: Any = None
        if length:
            with torch.no_grad():
                ids_1P = torch.tensor([self._prefix], device=model.device)
                self._prefix_cache = model(ids_1P, use_cache=True).past_key_values

    @torch.no_grad()
    def mass_BK(self, prompts: Sequence[list[int]]) -> Tensor:
        """Probability [B, K] (float64, CPU) that each prompt goes on with one of the words of each set.

        Where a word of one set is the beginning of a word of another, the longer one's share is not the shorter one's.
        """
        device, size = self._model.device, len(prompts)
        shared = len(self._prefix) if all(ids[: len(self._prefix)] == self._prefix for ids in prompts) else 0
        cache = None
        if shared:
            cache = copy.deepcopy(self._prefix_cache)
            cache.batch_repeat_interleave(size)
        end_B = torch.tensor([len(ids) for ids in prompts], device=device)
        longest = int(end_B.max())
        mask_BT = (torch.arange(longest, device=device) < end_B[:, None]).long()
        ids_BT = torch.tensor([ids[shared:] + [0] * (longest - len(ids)) for ids in prompts], device=device)
        position_BT = torch.arange(shared, longest, device=device).expand(size, -1)
        output = self._model(
            ids_BT, attention_mask=mask_BT, position_ids=position_BT, past_key_values=cache, use_cache=True
        )
        logits_BV = output.logits[torch.arange(size, device=device), end_B - 1 - shared]
        first_BV = logits_BV.float().log_softmax(-1)
        mass_BK = torch.zeros(size, len(self._sequences_K), dtype=torch.float64)
        for k, own in enumerate(self._sequences_K):
            for sequence in own:
                p_B = self._probability_B(sequence, first_BV, output.past_key_values, mask_BT, end_B)
                mass_BK[:, k] += p_B
                for j, shorter in enumerate(self._sequences_K):
                    if j != k and any(sequence[: len(other)] == other for other in shorter):
                        mass_BK[:, j] -= p_B
        return mass_BK.clamp_min(0.0)

    def _probability_B(self, sequence: Tokens, first_BV: Tensor, cache: Any, mask_BT: Tensor, end_B: Tensor) -> Tensor:
        """Probability [B] (float64, CPU) that the reply begins with the tokens of `sequence`."""
        first_B = first_BV[:, sequence[0]].double()
        likely_B = first_B.exp() >= NEGLIGIBLE
        if len(sequence) == 1:
            return first_B.exp().cpu()
        if not likely_B.any():
            return torch.zeros(len(first_B), dtype=torch.float64)
        ids_BS = torch.tensor(sequence[:-1], device=first_BV.device).expand(len(first_BV), -1)
        position_BS = end_B[:, None] + torch.arange(ids_BS.shape[1], device=first_BV.device)
        longer_BT = torch.cat([mask_BT, torch.ones_like(ids_BS)], dim=1)
        own_cache = copy.deepcopy(cache)  # a cache of sliding windows could not forget these tokens again
        output = self._model(
            ids_BS, attention_mask=longer_BT, position_ids=position_BS, past_key_values=own_cache, use_cache=True
        )
        logp_BSV = output.logits.float().log_softmax(-1).double()
        rest_B = sum(logp_BSV[:, step, token] for step, token in enumerate(sequence[1:]))
        return torch.where(likely_B, (first_B + rest_B).exp(), 0.0).cpu()


def token_sequences(
    tokenizer: PreTrainedTokenizerBase, words: Verbalizers, lead: str, may_continue: bool = False
) -> list[list[Tokens]]:
    """For each set the token sequences of its words as they follow `lead`, in several cases, with and without a space.

    A spelling with which another set's word begins is left out, unless `may_continue`: it could become either. One that
    begins with another of its own set is left out, too: it is counted already.

    Raises:
        InputError: that happens to a word as it is written, or the tokenizer does not know it.
    """
    found = [
        {
            _tokens_after(tokenizer, lead, spelling): spelling in own
            for word in own
            for spelling in reversed(word_variants(word))
        }
        for own in words
    ]
    kept: list[list[Tokens]] = []
    for k, own in enumerate(found):
        others = [sequence for j, other in enumerate(found) if j != k for sequence in other]
        kept.append([])
        for sequence, as_written in own.items():
            unknown = not sequence or tokenizer.unk_token_id in sequence
            begins = any(other[: len(sequence)] == sequence for other in others) and not may_continue
            counted = any(sequence != shorter == sequence[: len(shorter)] for shorter in own)
            if not unknown and not begins and not counted:
                kept[-1].append(sequence)
            elif as_written and not counted:
                why = "has tokens that are unknown to" if unknown else "is the beginning of another label's words for"
                raise InputError(
                    f"--grader_verbalizers: {'|'.join(words[k])!r} {why} the judge's tokenizer; give it other words"
                )
    return kept


def _tokens_after(tokenizer: PreTrainedTokenizerBase, lead: str, text: str) -> Tokens:
    """The tokens of `text` where it follows `lead`; on their own, if the two run into one token."""
    before, whole = (tokenizer.encode(part, add_special_tokens=False) for part in (lead, lead + text))
    if whole[: len(before)] == before:
        return tuple(whole[len(before) :])
    return tuple(tokenizer.encode(text, add_special_tokens=False))
