"""Defaults that depend on the classifier that trains and on the number of texts; `methods.defaults` resolves them."""

from typing import Literal, NamedTuple

Kind = Literal["small", "encoder", "frozen"]
"""What trains: the small classifier, a pretrained encoder, or the head of one that is frozen."""


class ByClassifier(NamedTuple):
    """The default of an option for each kind of classifier.

    Attributes:
        small: All weights of the small classifier train.
        small_lora: LoRA adapters on the small classifier train.
        encoder: All weights of a pretrained encoder train.
        encoder_lora: LoRA adapters on a pretrained encoder train.
        frozen: The head on a frozen encoder trains.
    """

    small: float
    small_lora: float
    encoder: float
    encoder_lora: float
    frozen: float

    def of(self, kind: Kind, lora: bool) -> float:
        """The default for one kind of classifier."""
        return self.frozen if kind == "frozen" else self[2 * (kind == "encoder") + lora]


class Amount(NamedTuple):
    """How many texts a training reads by default, with repeats: `per_text` times their number, within two limits."""

    per_text: int
    minimum: int = 0
    maximum: int = 10**9

    def of(self, num_texts: int) -> int:
        """The amount for a number of texts."""
        return min(self.maximum, max(self.minimum, self.per_text * num_texts))


class AmountByClassifier(NamedTuple):
    """The default amount where a step costs little, and for a pretrained encoder that trains."""

    cheap: Amount
    encoder: Amount

    def of(self, kind: Kind, num_texts: int) -> int:
        """The amount for a kind of classifier and a number of texts."""
        return (self.encoder if kind == "encoder" else self.cheap).of(num_texts)


EPISODES = AmountByClassifier(Amount(40, 48_000, 480_000), Amount(20, 2_400, 24_000))
"""A frozen encoder or the small classifier: 40 episodes a text, 48,000 to 480,000. An encoder: 20, 2,400 to 24,000."""
STOP_OPTIMUM_FRACTION = ByClassifier(1.0, 1.0, 0.995, 0.995, 1.0)
