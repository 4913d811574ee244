"""From the names of run directories to the policies of a demo; whatever is wrong is said before serving."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.loading import check_checkpoint, label_set, load_classifier
from eightball_ppo.runtime.run import RESULTS, read_config, read_results

DEFAULT_RUN, DEFAULT_COMPARED_RUNS = "runs/ppo", "runs/distill"
_NO_POLICY = {
    "reward": "holds a reward model and no policy; pass it as --reward_model_path",
    "grade": "holds grades and no policy; name a run that was trained on them",
    "audit": "holds an audit and no policy; name a run that was trained",
}
_NEEDED = ("kl_coef", "score_type", "grader", "sft_model_path", "reward_model_path")


@dataclass(frozen=True)
class Policy:
    """A loaded policy: its `name` on the page, unlike any other there, and the run it comes from.

    `results` and `config` are empty for a reference that is a bare checkpoint.
    """

    name: str
    method: str
    directory: Path
    results: dict[str, Any]
    config: dict[str, Any]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def labels(self) -> LabelSet:
        return label_set(self.model)


@dataclass(frozen=True)
class _Run:
    """A run directory that was looked at, but not loaded."""

    directory: Path
    results: dict[str, Any]
    config: dict[str, Any]

    @property
    def method(self) -> str:
        return str(self.results["method"])


def load_policies(config: DemoConfig) -> tuple[Policy, list[Policy]]:
    """(the reference, the trained policies in the order given); cheap checks of all of them come before any loading.

    The reference is the run of method sft among `runs`, or else what the last run was trained from.

    Raises:
        InputError: no default run, a directory that is no finished run or holds no policy, damaged models, no trained
            policy, no reference, or labels that differ.
    """
    runs = [_look(name) for name in _directories(config)]
    trained = [run for run in runs if run.method != REFERENCE]
    references = [run for run in runs if run.method == REFERENCE]
    if not trained:
        raise InputError(
            f"--runs {runs[0].directory}: the reference alone; add a run that learned from a grader, e.g. {DEFAULT_RUN}"
        )
    if len(references) > 1:
        raise InputError(f"--runs {references[1].directory}: a second run of method {REFERENCE}; name one reference")
    names = _names(trained)
    trust = config.trust_remote_code
    policies = [_load(run, name, trust) for run, name in zip(trained, names, strict=True)]
    reference = _load(references[0], REFERENCE, trust) if references else _reference_of(trained[-1], trust)
    last = policies[-1]
    for policy in (reference, *policies):
        last.labels.require_same(policy.labels, f"--runs {last.directory}", str(policy.directory))
    return reference, policies


def _directories(config: DemoConfig) -> list[str]:
    if config.runs:
        return config.runs
    if not Path(DEFAULT_RUN).is_dir():
        raise InputError(f"{DEFAULT_RUN}: no finished run; train one first: python scripts/ppo.py")
    return [*([DEFAULT_COMPARED_RUNS] if (Path(DEFAULT_COMPARED_RUNS) / RESULTS).is_file() else []), DEFAULT_RUN]


def _look(name: str) -> _Run:
    """The run in directory `name`; raises InputError where there is none, or one without a policy."""
    directory = Path(name).expanduser()
    if not directory.is_dir():
        raise InputError(f"--runs {name}: no such directory; name a finished run, e.g. {DEFAULT_RUN}")
    if (directory / "manifest.json").is_file():
        raise InputError(f"--runs {name}: holds a comparison, not a run; name runs of it, below {directory / 'runs'}")
    try:
        run = _Run(directory, read_results(directory), read_config(directory))
    except InputError as error:
        raise InputError(f"--runs {error}; name a finished run, e.g. {DEFAULT_RUN}") from None
    if run.method in _NO_POLICY:
        raise InputError(f"--runs {name}: {_NO_POLICY[run.method]}")
    lacking = [option for option in _NEEDED if option not in run.config] if run.method != REFERENCE else []
    if lacking or not isinstance(run.results.get("splits"), dict):
        what = f"config.yaml lacks {lacking[0]}" if lacking else f"{RESULTS} lacks splits"
        raise InputError(f"--runs {name}: no run of a method that is known here, its {what}; train it anew")
    check_checkpoint(str(directory), "--runs")
    return run


def _load(run: _Run, name: str, trust_remote_code: bool) -> Policy:
    place = str(run.directory.absolute())
    model, tokenizer = load_classifier(place, "--runs", trust_remote_code=trust_remote_code)
    return Policy(name, run.method, run.directory, run.results, run.config, model, tokenizer)


def _reference_of(run: _Run, trust_remote_code: bool) -> Policy:
    """What `run` was trained from; its own results where that is a run, too."""
    path = str(run.config["sft_model_path"])
    try:
        model, tokenizer = load_classifier(path, "--sft_model_path", trust_remote_code=trust_remote_code)
    except InputError as error:
        raise InputError(
            f"--runs {run.directory}: its reference cannot be had ({error}); name its run of method {REFERENCE} in "
            "--runs, too"
        ) from None
    return Policy(REFERENCE, REFERENCE, Path(path), {}, {}, model, tokenizer)


def _names(runs: list[_Run]) -> list[str]:
    """The method of each run; with its directory where a method stands twice, which must not be one and the same."""
    places = [run.directory.absolute() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"--runs {run.directory}: stands twice; name every run once")
    methods = [run.method for run in runs]
    named = [run.method if methods.count(run.method) == 1 else f"{run.method} {run.directory.name}" for run in runs]
    unlike = len(set(named)) == len(named)
    return named if unlike else [f"{run.method} {run.directory}" for run in runs]
