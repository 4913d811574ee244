"""Noise as a pure function of numbers: the same key, label and ask give the same draw, in any order and after a resume.

Letters: B cells that are asked, K labels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform_B(key_B: NDArray[np.uint64], *counters: Tensor) -> tuple[Tensor, Tensor]:
    """Two uniform numbers in [0, 1) for each key and its counters, such as the label and the number of the ask.

    Args:
        key_B: Keys, shape [B].
        counters: Non-negative whole numbers, shape [B].

    Returns:
        Two tensors of shape [B], float64.
    """
    state = key_B
    with np.errstate(over="ignore"):
        for counter_B in counters:
            state = _mix(state + (counter_B.numpy().astype(np.uint64) + np.uint64(1)) * _STEP)
        first, second = _mix(state + _STEP), _mix(state + _STEP + _STEP)
    return torch.from_numpy((first >> np.uint64(11)) * 2.0**-53), torch.from_numpy((second >> np.uint64(11)) * 2.0**-53)


def shown_label_B(key_B: NDArray[np.uint64], label_B: Tensor, ask_B: Tensor, rate: float, num_labels: int) -> Tensor:
    """The label whose score an answer shows: with probability `rate` another one, all others alike; shape [B].

    Args:
        key_B: A key for each question, shape [B].
        label_B: The label that is asked for, shape [B].
        ask_B: How often the cell was asked before, shape [B].
        rate: Probability that the answer is wrong.
        num_labels: K; with one label no answer is wrong.
    """
    wrong_B, which_B = uniform_B(key_B, label_B, ask_B)
    shift_B = 1 + (which_B * (num_labels - 1)).long()
    return torch.where(wrong_B < rate, (label_B + shift_B) % num_labels, label_B)


def occurrence_B(cell_B: Tensor) -> Tensor:
    """How often each value stood before in `cell_B`; shape [B]."""
    sorted_B, order_B = cell_B.sort(stable=True)
    position_B = torch.arange(len(cell_B), device=cell_B.device)
    new_B = torch.ones_like(cell_B, dtype=torch.bool)
    new_B[1:] = sorted_B[1:] != sorted_B[:-1]
    start_B = torch.where(new_B, position_B, 0).cummax(0).values if len(cell_B) else position_B
    return torch.empty_like(cell_B).scatter_(0, order_B, position_B - start_B)
