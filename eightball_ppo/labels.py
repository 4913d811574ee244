"""The label set: names, order and ids, and the Magic 8-Ball's responses. Defined once, here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eightball_ppo.errors import InputError

# The 20 responses of the toy (10 affirmative, 5 non-committal, 5 negative), each with the answer it shortens to.
# A response drawn at random therefore shortens to Yes / No / Maybe with probability 0.50 / 0.25 / 0.25.
ANSWER_OF_RESPONSE: dict[str, str] = {
    "It is certain.": "Yes",
    "It is decidedly so.": "Yes",
    "Without a doubt.": "Yes",
    "Yes definitely.": "Yes",
    "You may rely on it.": "Yes",
    "As I see it, yes.": "Yes",
    "Most likely.": "Yes",
    "Outlook good.": "Yes",
    "Yes.": "Yes",
    "Signs point to yes.": "Yes",
    "Reply hazy, try again.": "Maybe",
    "Ask again later.": "Maybe",
    "Better not tell you now.": "Maybe",
    "Cannot predict now.": "Maybe",
    "Concentrate and ask again.": "Maybe",
    "Don't count on it.": "No",
    "My reply is no.": "No",
    "My sources say no.": "No",
    "Outlook not so good.": "No",
    "Very doubtful.": "No",
}

EIGHTBALL_LABELS = ("Yes", "No", "Maybe")
BOOLQ_LABELS = ("Yes", "No")  # BoolQ's true and false
HELPSTEER_LABELS = ("A", "B")  # which of two answers was rated as more helpful


@dataclass(frozen=True)
class LabelSet:
    """K label names in a fixed order; the position of a name is its id, in data, models, graders and reports alike.

    Raises:
        InputError: fewer than two names, an empty name, or a name that stands twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise InputError(f"labels: at least 2 are needed, got {list(self.names)}; pass --labels A B ...")
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"labels: {name!r} is no name, in {list(self.names)}; pass --labels A B ...")
            if self.names.count(name) > 1:
                raise InputError(f"labels: {name!r} stands twice in {list(self.names)}; every label needs its own name")

    @classmethod
    def of(cls, names: Sequence[str]) -> "LabelSet":
        return cls(tuple(names))

    @classmethod
    def of_model(cls, id2label: Mapping[int, str]) -> "LabelSet":
        """The label set of a `transformers` config's `id2label`.

        Raises:
            InputError: ids that are not 0 to K - 1, or names that cannot be a set.
        """
        if sorted(id2label) != list(range(len(id2label))):
            raise InputError(f"labels: id2label has the ids {list(id2label)[:20]}, 0 to {len(id2label) - 1} are needed")
        return cls(tuple(id2label[i] for i in range(len(id2label))))

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, name: str) -> int:
        return self.names.index(name)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def require_same(self, other: "LabelSet", mine: str, theirs: str) -> None:
        """Raises InputError unless both hold the same names in the same order; `mine` and `theirs` name the owners."""
        if self.names != other.names:
            raise InputError(
                f"labels differ: {mine} has {list(self.names)}, {theirs} has {list(other.names)}; "
                "the same names in the same order are needed"
            )
