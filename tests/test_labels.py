"""The label set."""

import pytest

from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet


def test_ids_follow_the_order() -> None:
    labels = LabelSet.of(["b", "a", "c"])
    assert (len(labels), labels.id_of("a"), labels.id2label[0], labels.label2id["c"]) == (3, 1, "b", 2)
    assert LabelSet.of_model({1: "a", 0: "b", 2: "c"}) == labels


@pytest.mark.parametrize("names", [[], ["only"], ["a", "a"], ["a", " "]])
def test_fewer_than_two_empty_or_repeated_names_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"^labels: "):
        LabelSet.of(names)


def test_another_order_is_another_set() -> None:
    with pytest.raises(InputError, match=r"labels differ: data has \['a', 'b'\], model has \['b', 'a'\]"):
        LabelSet.of(["a", "b"]).require_same(LabelSet.of(["b", "a"]), "data", "model")
