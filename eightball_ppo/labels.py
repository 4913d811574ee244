"""The label set: names and ids of the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eightball_ppo.errors import InputError

EIGHTBALL_LABELS = ("Yes", "No", "Maybe")
BOOLQ_LABELS = ("Yes", "No")  # BoolQ's true and false
HELPSTEER_LABELS = ("A", "B")  # which of two answers was rated as more helpful


@dataclass(frozen=True)
class LabelSet:
    """K different label names; the index of a name is its id in this set.

    Two sets with the same names in another order are the same labels: classifiers, graders, tables and data are matched
    by name (`require_same`, `columns_in`).

    Args:
        names: The label names.

    Raises:
        InputError: Fewer than two names, an empty name, or a duplicate.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise InputError(f"labels: at least 2 are needed, got {list(self.names)}; pass --labels A B ...")
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"labels: {name!r} is not a name, in {list(self.names)}; pass --labels A B ...")
            if self.names.count(name) > 1:
                raise InputError(
                    f"labels: {name!r} occurs twice in {list(self.names)}; every label needs a different name"
                )

    @classmethod
    def of(cls, names: Sequence[str]) -> "LabelSet":
        """The label set of these names."""
        return cls(tuple(names))

    @classmethod
    def of_model(cls, id2label: Mapping[int, str]) -> "LabelSet":
        """The label set of a `transformers` config's `id2label`.

        Raises:
            InputError: Ids that are not 0 to K - 1, or names that cannot be a label set.
        """
        if sorted(id2label) != list(range(len(id2label))):
            raise InputError(f"labels: id2label has the ids {list(id2label)[:20]}, 0 to {len(id2label) - 1} are needed")
        return cls(tuple(id2label[i] for i in range(len(id2label))))

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, name: str) -> int:
        """The id of a label name."""
        return self.names.index(name)

    @property
    def id2label(self) -> dict[int, str]:
        """Label names by id, as in a `transformers` config."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Ids by label name, as in a `transformers` config."""
        return {name: i for i, name in enumerate(self.names)}

    def require_same(self, other: "LabelSet", mine: str, theirs: str) -> None:
        """Raises InputError unless both have the same names, in any order; `mine` and `theirs` name the two."""
        lacks = [(theirs, [name for name in self.names if name not in other.names])]
        lacks += [(mine, [name for name in other.names if name not in self.names])]
        if missing := " and ".join(f"{where} lacks {names}" for where, names in lacks if names):
            both = f"{mine} has {list(self.names)}, {theirs} has {list(other.names)}"
            raise InputError(f"labels differ: {both}; {missing}; the same names are needed, in any order")

    def canonical(self) -> "LabelSet":
        """The same names in alphabetical order: the same for every order of the same labels."""
        return LabelSet(tuple(sorted(self.names)))

    def columns_in(self, other: "LabelSet") -> list[int]:
        """The ids that these names have in `other`: `x_NK[:, mine.columns_in(other)]` puts its columns in my order."""
        return [other.id_of(name) for name in self.names]
