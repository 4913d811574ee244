"""From the text of `--grader` to a grader."""

import difflib

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grader
from eightball_ppo.labels import LabelSet

NAMES = ("bert", "random-head", "rule")


def parse_grader(spec: str) -> tuple[str, str]:
    """(name, argument) of a grader spec `name[:argument]`, checked without loading anything.

    Raises:
        InputError: an unknown name (the nearest known one is offered), or an argument that is missing or malformed.
    """
    name, _, argument = spec.partition(":")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        offer = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(NAMES)}"
        raise InputError(f"--grader {spec}: unknown grader{offer}")
    if name == "rule" and not argument:
        raise InputError(f"--grader {spec}: which label? e.g. rule:LABEL")
    if name == "bert" and argument:
        raise InputError(f"--grader {spec}: bert takes no argument; its directory is --reward_model_path")
    if name == "random-head" and argument and not argument.isdecimal():
        raise InputError(f"--grader {spec}: the seed must be a whole number, got {argument!r}")
    return name, argument


def load_grader(spec: str, labels: LabelSet, reward_model_path: str) -> Grader:
    """The grader that `spec` names, with the labels of the task.

    Raises:
        InputError: as `parse_grader`; a reward model that cannot be loaded, or whose labels are others.
    """
    name, argument = parse_grader(spec)
    if name == "rule":
        from eightball_ppo.graders.rules import RuleGrader

        return RuleGrader(argument, labels)
    from eightball_ppo.graders.bert import RANDOM_HEAD_SEED, BertGrader  # heavy

    if name == "random-head":
        return BertGrader.random_head(labels, int(argument or RANDOM_HEAD_SEED))
    grader = BertGrader.from_directory(reward_model_path)
    labels.require_same(grader.labels, "--labels", f"--reward_model_path {reward_model_path}")
    return grader
