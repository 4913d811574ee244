"""Loads the policies of a demo from run directories; every error is raised before the demo serves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.loading import check_checkpoint, label_set, load_classifier
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.run import RESULTS, read_config, read_results

DEFAULT_RUN = "runs/ppo"
DEFAULT_RUNS = ("runs/distill", DEFAULT_RUN, "runs/frozen/ppo")  # those that exist; the last one answers
_NO_POLICY = {
    "reward": "holds a reward model and no policy; pass it as --reward_model_path",
    "grade": "holds grades and no policy; name a run that was trained on them",
    "audit": "holds an audit and no policy; name a run that was trained",
}
_MODELS = ("sft_model_path", "reward_model_path")
_REQUIRED_OPTIONS = ("kl_coef", "score_type", "grader", *_MODELS)


@dataclass(frozen=True)
class Policy:
    """A loaded policy and its run; `name` is unique on the page.

    `results` and `config` are empty for a reference that was loaded as a bare checkpoint.
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
        """The model's labels."""
        return label_set(self.model)


class _Run(NamedTuple):
    """A run directory that was checked, but not loaded."""

    method: str
    directory: Path
    results: dict[str, Any]
    config: dict[str, Any]


def load_policies(config: DemoConfig) -> tuple[Policy, list[Policy]]:
    """Loads the reference and the trained policies, after the records of all runs were checked.

    The reference is the run of method sft among `runs`, otherwise the model that the last run was trained from.

    Returns:
        The reference, and the trained policies in the order of `runs`.

    Raises:
        InputError: A default run does not exist, a directory is not a finished run or holds no policy, a model is
            damaged, a trained policy or the reference is missing, or labels differ.
    """
    runs = [_check_run(name) for name in _directories(config)]
    trained = [run for run in runs if run.method != REFERENCE]
    references = [run for run in runs if run.method == REFERENCE]
    if not trained:
        raise InputError(
            f"--runs {runs[0].directory}: the reference alone; add a run that learned from a grader, e.g. {DEFAULT_RUN}"
        )
    _check_distinct(trained)
    if len(references) > 1:
        raise InputError(f"--runs {references[1].directory}: a second run of method {REFERENCE}; name one reference")
    trust = config.trust_remote_code
    loaded = [_load(run, trust) for run in trained]
    names = _names(trained, [model for model, _ in loaded])
    policies = [Policy(name, *run, *model) for name, run, model in zip(names, trained, loaded, strict=True)]
    if references:
        reference = Policy(REFERENCE, *references[0], *_load(references[0], trust))
    else:
        reference = _reference_of(trained[-1], trust)
    last = policies[-1]
    for policy in (reference, *policies):
        last.labels.require_same(policy.labels, f"--runs {last.directory}", str(policy.directory))
    return reference, policies


def _directories(config: DemoConfig) -> list[str]:
    if config.runs:
        return config.runs
    found = [run for run in DEFAULT_RUNS if (Path(run) / RESULTS).is_file()]
    if found in ([], [DEFAULT_RUNS[0]]):
        raise InputError(f"{DEFAULT_RUN}: no finished run; train one first: eightball ppo, or name runs")
    return found


def _check_run(name: str) -> _Run:
    """Reads the records of a run; raises InputError if there is no run, or one without a policy."""
    directory = Path(name).expanduser()
    if not directory.is_dir():
        raise InputError(f"--runs {name}: no such directory; name a finished run, e.g. {DEFAULT_RUN}")
    if (directory / "manifest.json").is_file():
        raise InputError(f"--runs {name}: holds a comparison, not a run; name runs of it, below {directory / 'runs'}")
    try:
        results, config = read_results(directory), read_config(directory)
    except InputError as error:
        raise InputError(f"--runs {error}; name a finished run, e.g. {DEFAULT_RUN}") from None
    method = results["method"]
    if method in _NO_POLICY:
        raise InputError(f"--runs {name}: {_NO_POLICY[method]}")
    missing = [f"config.yaml lacks {key}" for key in _REQUIRED_OPTIONS if key not in config and method != REFERENCE]
    if not isinstance(results.get("splits"), dict):
        missing.append(f"{RESULTS} lacks splits")
    if missing:
        raise InputError(f"--runs {name}: not a run of a known method, its {missing[0]}; train it again")
    check_checkpoint(str(directory), "--runs")
    config |= {key: locate(config[key], directory) for key in _MODELS if isinstance(config.get(key), str)}
    return _Run(method, directory, results, config)


def _load(run: _Run, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_classifier(str(run.directory.absolute()), "--runs", trust_remote_code=trust_remote_code)


def _reference_of(run: _Run, trust_remote_code: bool) -> Policy:
    """The model that `run` was trained from."""
    path = str(run.config["sft_model_path"])
    try:
        model, tokenizer = load_classifier(path, "--sft_model_path", trust_remote_code=trust_remote_code)
    except InputError as error:
        raise InputError(
            f"--runs {run.directory}: its reference cannot be loaded ({error}); add the run of method {REFERENCE} to "
            "--runs"
        ) from None
    return Policy(REFERENCE, REFERENCE, Path(path), {}, {}, model, tokenizer)


def _check_distinct(runs: list[_Run]) -> None:
    paths = [run.directory.absolute() for run in runs]
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise InputError(f"--runs {repeated[0]}: named twice; name every run once")


def _names(runs: list[_Run], models: list[PreTrainedModel]) -> list[str]:
    """The method of each run; of several runs of a method also the kind of the classifier, or the directory."""
    methods = [run.method for run in runs]
    kinds = [_kind(model) for model in models]
    names: list[str] = []
    for words in (kinds, [run.directory.name for run in runs], [str(run.directory) for run in runs]):
        names = [m if methods.count(m) == 1 else f"{m} {word}" for m, word in zip(methods, words, strict=True)]
        if len(set(names)) == len(names):
            break
    return names


def _kind(model: PreTrainedModel) -> str:
    if isinstance(model.config, EightBallConfig):
        return "small"
    return "frozen" if getattr(model.config, "frozen", False) else "encoder"
