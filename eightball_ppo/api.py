"""The functions of the Python API: compare methods, audit a judge, load a policy."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from eightball_ppo.arguments import arguments_in_messages, given_audit, given_inputs
from eightball_ppo.auditing.run import run as run_audit
from eightball_ppo.comparison import compare as comparison
from eightball_ppo.comparison import workspace
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.methods.inputs import LoadedModel
from eightball_ppo.models.loading import load_classifier


@contextlib.contextmanager
def _places(output_dir: str | os.PathLike[str] | None, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`options` with the output directory; without one, a temporary directory and a grade store in it.

    Errors in the block name arguments of Python.
    """
    if output_dir is not None:
        with arguments_in_messages("judge", prefix=""):
            yield {**options, "output_dir": os.fspath(output_dir)}
        return
    with (
        tempfile.TemporaryDirectory(prefix="eightball-") as scratch,
        arguments_in_messages("judge", prefix="", temporary="grade_store" not in options),
    ):
        yield {"grade_store": f"{scratch}/grades.sqlite3", **options, "output_dir": f"{scratch}/run"}


def compare(
    methods: Sequence[str],
    model: str | os.PathLike[str] | PreTrainedModel,
    judge: Any,
    train_dataset: Any,
    eval_dataset: Any = None,
    seeds: Sequence[int] = (0, 1, 2),
    kl_coefs: Sequence[float] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Trains every method with every seed and KL coefficient on the same grades.

    This process asks the judge, once about each text, and writes a table; the processes that train read the table, so
    that a function that cannot be pickled can judge.

    Args:
        methods: Names of methods, e.g. `["distill", "ppo"]`.
        model: A name, a directory, or a loaded classifier that names the directory it was loaded from.
        judge: As `reward_funcs` of a trainer.
        train_dataset: The texts to learn from.
        eval_dataset: The texts to measure on; None: a part of `train_dataset`.
        seeds: Seeds of training.
        kl_coefs: KL coefficients in the judge's unit; by default 0.1 and 2, of raw scores 0.1 and 0.5 times their
            standard deviation over labels.
        output_dir: Where the comparison stays, with report.html, and is continued; None: nothing stays.
        **options: Further options of `eightball compare`, e.g. `method_options=["ppo.total_episodes=2400"]`.

    Returns:
        A row for every run and split ("train", "heldout"): method, seed, beta, and the metrics of results.json.

    Raises:
        InputError: An argument that cannot be used, or a directory of another comparison.
        IncompleteError: Too many grades failed, or some runs did.
    """
    asked = {"methods": list(methods), "seeds": list(seeds), "kl_coefs": list(kl_coefs or ()), **options}
    with _places(output_dir, asked) as resolved:
        given, config = given_inputs(CompareConfig, resolved, model, judge, train_dataset, eval_dataset)
        directory = comparison.run(workspace.with_own_data(config, given.train), given, output_dir is None)
        return pd.read_parquet(directory / "results.parquet")


class AuditResult(NamedTuple):
    """The verdict on a judge.

    Attributes:
        passed: Whether every check passed; True for a judge that ignores the gold labels by design, such as a rule.
        failed_checks: A sentence for each check that failed.
        accuracy: Share of the gold texts whose top label is the gold one.
        record: Everything measured, as in audit.json.
    """

    passed: bool
    failed_checks: list[str]
    accuracy: float
    record: dict[str, Any]


def audit(
    judge: Any,
    gold: Any,
    labels: Sequence[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> AuditResult:
    """Tests a judge against gold labels and by variants of the texts, before anything is trained on it.

    Args:
        judge: As `reward_funcs` of a trainer.
        gold: Texts with gold labels: a `datasets.Dataset`, a table or a file.
        labels: The label names; by default those of the judge, or those in `gold`.
        output_dir: Where audit.json and audit.html stay; None: nothing stays.
        **options: Further options of `eightball audit`, e.g. `min_accuracy=0.8`.

    Returns:
        The verdict.

    Raises:
        InputError: An argument that cannot be used.
        IncompleteError: No gold text got a complete grade.
    """
    with _places(output_dir, options) as resolved:
        judge, gold, config = given_audit(judge, gold, labels, resolved)
        directory = run_audit(config, judge, gold, output_dir is None)
        record = json.loads((directory / "audit.json").read_text(encoding="utf-8"))
    return AuditResult(not record["failed_checks"], record["failed_checks"], record["accuracy"], record)


def load_policy(path: str | os.PathLike[str], trust_remote_code: bool = False) -> LoadedModel:
    """A trained policy and its tokenizer; adapters are merged into their base model.

    Args:
        path: The directory of a run, or a Hub id.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        InputError: No classifier is there, or one that cannot be loaded.
    """
    return load_classifier(os.fspath(path), "load_policy", trust_remote_code=trust_remote_code)
