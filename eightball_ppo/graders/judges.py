"""From whatever a user passes as a judge to a `Grader`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from eightball_ppo.config.fields import require
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.function import BATCH_SIZE, function_grader, kind_of
from eightball_ppo.graders.python_source import load_function
from eightball_ppo.graders.registry import load_grader, object_spec, parse_grader
from eightball_ppo.graders.reward_functions import Columns
from eightball_ppo.graders.storage.derived import EnsembleSource
from eightball_ppo.graders.storage.score_table import STATUSES
from eightball_ppo.graders.storage.sources import StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet

C = TypeVar("C", bound=GraderConfig)


def as_grader(
    judge: Any,
    labels: LabelSet,
    *,
    columns: Columns | None = None,
    weights: Sequence[float] | None = None,
    config: GraderConfig | None = None,
) -> Grader:
    """Turns a judge into a `Grader`. No judge is called.

    Args:
        judge: A function `f(texts, labels)` that returns [N, K] scores in any unit; a labeller `f(text)` that returns a
            label or None; a TRL reward function; a `Grader`; a text as of `--grader`; or a list of these. TRL reward
            functions of a list are summed and may return None; other members are averaged as by `--grader a,b`.
            Functions may be async.
        labels: The K labels.
        columns: The other columns of each text's row, for TRL reward functions.
        weights: The weights of a list; by default 1 each.
        config: The options of graders that are named by a text; by default the defaults.

    Raises:
        InputError: No judge, an unknown name, or a wrong number of weights.
    """
    members = check_judge(judge)
    if weights and len(weights) != len(members):
        raise InputError(f"judge: {len(weights)} weights are given for {len(members)} judges; give one for each")
    functions = [member for member in members if callable(member) and not _is_grader(member)]
    summed = len(functions) == len(members) and all(kind_of(function) == "trl" for function in functions)
    for weight in weights or ():
        usable = math.isfinite(weight) and (summed or weight > 0)
        require(usable, f"--grader_weights {weight}: a weight is a number, above 0 but for sums of reward functions")
    require(summed or len(members) > 1 or not weights, "--grader_weights: one judge alone has no weight; leave it out")
    if len(functions) == len(members) and (len(members) == 1 or summed):
        return function_grader(functions, labels, columns, weights)
    graders = [_one(member, labels, columns, config) for member in members]
    return graders[0] if len(graders) == 1 else EnsembleGrader(graders, list(weights or [1.0] * len(graders)))


def resolve_judge(config: C, judge: Any, columns: Columns) -> tuple[C, Grader]:
    """The options of a stage to which a program passes a judge, which name it, and the judge as a `Grader`.

    Args:
        config: The options, with labels.
        judge: As of `as_grader`.
        columns: The other columns of each text's row, for TRL reward functions.

    Raises:
        InputError: As `as_grader`.
    """
    weights = config.grader_weights or None
    grader = as_grader(judge, config.label_set(), columns=columns, weights=weights, config=config)
    return replace(config, grader=object_spec(grader), grade_table=None), grader


def check_judge(judge: Any) -> list[Any]:
    """The members of a judge, or the judge itself; needs no data and no labels.

    Raises:
        InputError: What is no judge.
    """
    members = list(judge) if isinstance(judge, list | tuple) else [judge]
    for member in members or [None]:
        if not callable(member) and not isinstance(member, str) and not _is_grader(member):
            kinds = "a function, a Grader, the name of a grader, or a list of these"
            got = type(member).__name__ if members else "an empty list"
            raise InputError(f"judge: {kinds} is needed, got {got}")
        if callable(member) and not _is_grader(member):
            kind_of(member)
    return members


def reward_functions(judge: Any) -> list[Any]:
    """The TRL reward functions of a judge, or of a `--grader` text, which read the data's columns."""
    functions: list[Any] = []
    for member in check_judge(judge):
        named = parse_grader(member) if isinstance(member, str) else []
        functions += [load_function(spec.argument) for spec in named if spec.name == "python"]
        functions += [member] if callable(member) and not _is_grader(member) else []
    return [function for function in functions if kind_of(function) == "trl"]


def _is_grader(judge: Any) -> bool:
    return isinstance(getattr(judge, "labels", None), LabelSet) and callable(getattr(judge, "grade", None))


def _one(judge: Any, labels: LabelSet, columns: Columns | None, config: GraderConfig | None) -> Grader:
    if _is_grader(judge):
        labels.require_same(judge.labels, "--labels", f"grader {judge.fingerprint}")
        return judge
    if callable(judge):
        return function_grader([judge], labels, columns)
    config = GradeConfig(grader=judge) if config is None else config
    specs = parse_grader(judge)
    if any(spec.noise for spec in specs):
        raise InputError(f"judge {judge}: noise is an option of the run, not of a judge in Python; pass label_noise")
    if any(spec.name == "rater" for spec in specs):
        raise InputError(f"judge {judge}: raters decide what is gold; name them alone, or by the option grader")
    with GradeStore(config.grade_store) as store:
        graders = [load_grader(spec, config, labels, store, Budget(), columns) for spec in specs]
    return graders[0] if len(graders) == 1 else EnsembleGrader(graders, [1.0] * len(graders))


class EnsembleGrader(Grader):
    """Several graders as one; the store keeps the grades of each, so that other weights take no new calls.

    Args:
        members: The graders; one that is an ensemble itself counts as one.
        weights: Their weights, as of `EnsembleSource`.
    """

    def __init__(self, members: Sequence[Grader], weights: Sequence[float]):
        self.members, self.weights = list(members), list(weights)
        source = self._source(GradeStore(":memory:"))
        self.labels, self.scale, self.fingerprint = source.labels, source.scale, source.fingerprint
        self.deliberate, self.settings = source.deliberate, source.settings

    def _source(self, store: GradeStore) -> EnsembleSource:
        return EnsembleSource([StoredGrader(m, store, Budget(), 1.0, False) for m in self.members], self.weights)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`."""
        for batch in batched(budget.allowed(requests), BATCH_SIZE):
            with GradeStore(":memory:") as store:
                questions = [request.question for request in batch]
                source = self._source(store)
                source.grade_missing(questions)
                chunk = source.read_chunk(questions)
            assert chunk.cells_NK is not None
            for row, request in enumerate(batch):
                if chunk.complete_N[row]:
                    on_grade(Grade.from_scores(request, chunk.cells_NK["score"][row].tolist()))
                else:
                    status = STATUSES[chunk.cells_NK["status"][row].max()]
                    detail = "; ".join(chunk.details) or "a member gave no grade"
                    on_grade(Grade(request, "refused" if status == "refused" else "failed", (), detail))
