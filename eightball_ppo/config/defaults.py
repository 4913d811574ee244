"""Defaults that depend on the classifier that trains and on the number of texts; `methods.defaults` resolves them."""

from typing import NamedTuple


class ByClassifier(NamedTuple):
    """The default of an option for each kind of classifier.

    Attributes:
        small: All weights of the small classifier train.
        small_lora: LoRA adapters on the small classifier train.
        encoder: All weights of a pretrained encoder train.
        encoder_lora: LoRA adapters on a pretrained encoder train.
    """

    small: float
    small_lora: float
    encoder: float
    encoder_lora: float

    def of(self, small: bool, lora: bool) -> float:
        """The default for one kind of classifier."""
        return self[2 * (not small) + lora]


class Amount(NamedTuple):
    """How many texts a training reads by default, with repeats: `per_text` times their number, within two limits."""

    per_text: int
    minimum: int = 0
    maximum: int = 10**9

    def of(self, num_texts: int) -> int:
        """The amount for a number of texts."""
        return min(self.maximum, max(self.minimum, self.per_text * num_texts))


class AmountByClassifier(NamedTuple):
    """The default amount for the small classifier and for a pretrained encoder."""

    small: Amount
    encoder: Amount


EPISODES = AmountByClassifier(Amount(80, 48_000, 480_000), Amount(20, 2_400, 24_000))
"""The small classifier: 80 episodes a text, 48,000 to 480,000. An encoder: 20 a text, 2,400 to 24,000."""
STOP_OPTIMUM_FRACTION = ByClassifier(1.0, 1.0, 0.995, 0.995)
