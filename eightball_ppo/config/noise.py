"""The text of `--label_noise`: how many training grades are wrong, and how they are drawn."""

from typing import Literal, NamedTuple, get_args

from eightball_ppo.errors import InputError

NoiseKind = Literal["row", "cell", "call"]


class LabelNoise(NamedTuple):
    """Label noise of training grades.

    Attributes:
        rate: Probability that a grade is wrong, 0 to 1.
        kind: What is wrong together. "row": all grades of a question, shifted by one number of labels. "cell": each
            (question, label) by itself, once for all. "call": each answer of the grader, drawn at every call.
    """

    rate: float = 0.0
    kind: NoiseKind = "row"

    @classmethod
    def parse(cls, value: str | float) -> "LabelNoise":
        """Reads RATE or RATE:KIND; a rate alone is of the kind "row".

        Raises:
            InputError: Not of this form, or a rate outside 0 to 1.
        """
        rate, colon, kind = str(value).partition(":")
        kinds = get_args(NoiseKind)
        try:
            number = float(rate)
        except ValueError:
            number = float("nan")
        if isinstance(value, bool) or number != number or (colon and kind not in kinds):
            form = f"RATE or RATE:KIND is needed, KIND one of {', '.join(kinds)}, e.g. 0.3:cell"
            raise InputError(f"--label_noise {value}: {form}")
        if not 0 <= number <= 1:
            raise InputError(f"--label_noise {value}: must be a share, 0 to 1")
        return cls(number, next((known for known in kinds if known == kind and number), "row"))

    def __str__(self) -> str:
        return repr(self.rate + 0.0) + ("" if self.kind == "row" else f":{self.kind}")

    @property
    def name(self) -> str:
        """The condition in tables and names of runs; empty without noise."""
        return f"{self.rate:g}" + ("" if self.kind == "row" else f":{self.kind}") if self.rate else ""
