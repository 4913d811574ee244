"""What some cells of a row of probabilities say of the others: a row sums to one, so K - 1 cells give the last.

Letters: N rows, K labels. Log-probabilities are in nats.
"""

import torch
from torch import Tensor

MIN_MASS = 1e-7  # what observed cells leave at least; a row of float32 sums to 1 within about as much


def remaining_mass_N(logp_NK: Tensor, observed_NK: Tensor) -> Tensor:
    """The probability that the observed cells of each row leave to the others; shape [N], at least `MIN_MASS`."""
    seen_N = logp_NK.double().masked_fill(~observed_NK, -torch.inf).logsumexp(-1)
    return (-seen_N.expm1()).clamp(min=MIN_MASS)


def label_prior_K(logp_NK: Tensor, observed_NK: Tensor) -> Tensor:
    """The mean of the observed probabilities of each label, with one cell of 1/K added to each; shape [K], float64."""
    total_K = logp_NK.double().exp().masked_fill(~observed_NK, 0.0).sum(0)
    return (total_K + 1 / logp_NK.shape[1]) / (observed_NK.sum(0) + 1)


def posterior_logp_NK(logp_NK: Tensor, observed_NK: Tensor, prior_K: Tensor) -> Tensor:
    """Log-probabilities of rows of which some cells are observed.

    Unobserved cells share what the observed ones of their row leave, in proportion to `prior_K`. So the last cell of a
    row gets all that is left, and a row without an observed cell is the normalised prior.

    Args:
        logp_NK: Log-probabilities, shape [N, K]; only observed cells are read.
        observed_NK: Which cells are observed.
        prior_K: Positive weights of the labels, such as `label_prior_K`.

    Returns:
        Log-probabilities, shape [N, K], float64; observed cells are unchanged.
    """
    share_NK = prior_K.double().log().expand_as(logp_NK).masked_fill(observed_NK, -torch.inf).log_softmax(-1)
    unseen_NK = remaining_mass_N(logp_NK, observed_NK).log().unsqueeze(-1) + share_NK
    return torch.where(observed_NK, logp_NK.double(), unseen_NK)


def favourite_known_N(logp_NK: Tensor, observed_NK: Tensor) -> Tensor:
    """Whether the observed cells of each row tell which label is the most probable; shape [N].

    That is where one of them has more than all unobserved labels together, or where one label at most is unobserved.
    """
    best_N = logp_NK.double().exp().masked_fill(~observed_NK, 0.0).max(-1).values
    return (best_N > remaining_mass_N(logp_NK, observed_NK)) | ((~observed_NK).sum(-1) <= 1)


def cells_until_favourite_N(logp_NK: Tensor) -> Tensor:
    """How many cells of each row must be observed, first label first, until its favourite is known; shape [N], >= 1."""
    p_NK = logp_NK.double().exp()
    left_NK = (1 - p_NK.cumsum(-1)).clamp(min=MIN_MASS)
    known_NK = p_NK.cummax(-1).values > left_NK
    known_NK[:, max(logp_NK.shape[1] - 2, 0)] = True
    return known_NK.int().argmax(-1) + 1
