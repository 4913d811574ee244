"""Probabilities of label words as a language model's next tokens: the mechanics of grader llm.

The prefix that all prompts share is read once; a prompt then costs one forward pass of the rest, and a short one for
each word of several tokens. Shapes: B prompts, T prompt tokens, S tokens of a word, K labels, V vocabulary.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.errors import InputError
from eightball_ppo.graders.verbalizers import Verbalizers, word_variants

NEGLIGIBLE = 1e-6  # probability of a first token below which the rest of a word is not computed
Tokens = tuple[int, ...]


class LabelTokenScorer:
    """Computes how likely the token sequences of K labels are to follow a prompt.

    Args:
        model: A causal language model.
        sequences_K: As `token_sequences` returns them.
        examples: Token ids of a few prompts; the cache of their common prefix is kept.
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
        """Probability that the reply begins with a word of each label.

        If a word of one label begins a word of another, the longer word's probability counts for its label only.

        Args:
            prompts: B prompts as token ids.

        Returns:
            Probabilities, shape [B, K], float64 on the CPU.
        """
        device, size = self._model.device, len(prompts)
        shared = len(self._prefix) if all(ids[: len(self._prefix)] == self._prefix for ids in prompts) else 0
        cache = copy.deepcopy(self._prefix_cache) if shared else None
        if cache is not None:
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
        for k, sequences in enumerate(self._sequences_K):
            for sequence in sequences:
                p_B = self._probability_B(sequence, first_BV, output.past_key_values, mask_BT, end_B)
                mass_BK[:, k] += p_B
                for j, others in enumerate(self._sequences_K):
                    if j != k and any(sequence[: len(other)] == other for other in others):
                        mass_BK[:, j] -= p_B
        return mass_BK.clamp_min(0.0)

    def _probability_B(self, sequence: Tokens, first_BV: Tensor, cache: Any, mask_BT: Tensor, end_B: Tensor) -> Tensor:
        """Probability that the reply begins with `sequence`, shape [B], float64 on the CPU."""
        first_B = first_BV[:, sequence[0]].double()
        likely_B = first_B.exp() >= NEGLIGIBLE
        if len(sequence) == 1:
            return first_B.exp().cpu()
        if not likely_B.any():
            return torch.zeros(len(first_B), dtype=torch.float64)
        ids_BS = torch.tensor(sequence[:-1], device=first_BV.device).expand(len(first_BV), -1)
        position_BS = end_B[:, None] + torch.arange(ids_BS.shape[1], device=first_BV.device)
        longer_BT = torch.cat([mask_BT, torch.ones_like(ids_BS)], dim=1)
        cache = copy.deepcopy(cache)  # a sliding-window cache cannot be cropped back
        output = self._model(
            ids_BS, attention_mask=longer_BT, position_ids=position_BS, past_key_values=cache, use_cache=True
        )
        logp_BSV = output.logits.float().log_softmax(-1).double()
        rest_B = sum(logp_BSV[:, step, token] for step, token in enumerate(sequence[1:]))
        return torch.where(likely_B, (first_B + rest_B).exp(), 0.0).cpu()


def token_sequences(
    tokenizer: PreTrainedTokenizerBase, words: Verbalizers, lead: str, may_continue: bool = False
) -> list[list[Tokens]]:
    """The token sequences of each label's words in several spellings.

    A spelling that begins another label's word is ambiguous and left out; one that begins with another spelling of its
    label is left out because it is counted already.

    Args:
        tokenizer: The judge's tokenizer.
        words: The words of the K labels.
        lead: The text that the words follow.
        may_continue: Keeps ambiguous spellings, as 1 and 10.

    Returns:
        A list of sequences for each of the K labels.

    Raises:
        InputError: A word in its original spelling is ambiguous, or unknown to the tokenizer.
    """
    found: list[dict[Tokens, bool]] = []  # True for the original spelling
    for label_words in words:
        spellings = [spelling for word in label_words for spelling in reversed(word_variants(word))]
        found.append({_tokens_after(tokenizer, lead, spelling): spelling in label_words for spelling in spellings})
    sequences_K: list[list[Tokens]] = []
    for k, candidates in enumerate(found):
        others = [sequence for j, other in enumerate(found) if j != k for sequence in other]
        sequences_K.append([])
        for sequence, original in candidates.items():
            unknown = not sequence or tokenizer.unk_token_id in sequence
            ambiguous = any(other[: len(sequence)] == sequence for other in others) and not may_continue
            counted = any(sequence != shorter == sequence[: len(shorter)] for shorter in candidates)
            if not unknown and not ambiguous and not counted:
                sequences_K[-1].append(sequence)
            elif original and not counted:
                why = "has tokens that are unknown to" if unknown else "is the beginning of another label's words for"
                problem = f"{'|'.join(words[k])!r} {why} the judge's tokenizer"
                raise InputError(f"--grader_verbalizers: {problem}; give it other words")
    return sequences_K


def _tokens_after(tokenizer: PreTrainedTokenizerBase, lead: str, text: str) -> Tokens:
    """The tokens of `text` behind `lead`; without `lead` if a token spans both."""
    before, both = (tokenizer.encode(part, add_special_tokens=False) for part in (lead, lead + text))
    if both[: len(before)] == before:
        return tuple(both[len(before) :])
    return tuple(tokenizer.encode(text, add_special_tokens=False))
