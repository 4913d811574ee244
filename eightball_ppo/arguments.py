"""What a Python program passes (a loaded model, a function, a list of texts) as options and inputs of a run."""

import contextlib
import copy
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.fields import require
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.stages import AuditConfig, RewardConfig, SFTConfig
from eightball_ppo.data import Questions, cut_questions, load_split, questions_from
from eightball_ppo.errors import UserFacingError
from eightball_ppo.graders.judges import check_judge
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.methods.inputs import Inputs, LoadedModel
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import check_checkpoint, label_set, load_tokenizer
from eightball_ppo.models.lora import merged
from eightball_ppo.models.tokenization import set_max_length
from eightball_ppo.runtime.logging import decisions_on_stderr
from eightball_ppo.runtime.paths import local_path

C = TypeVar("C", bound=GraderConfig)
G = TypeVar("G", bound=GraderTrainingConfig)
STORED = re.compile(r"good grades are stored in [^;]*; run the same command again to grade the rest")
MEMORY = "memory"  # as dataset_name: texts that the program passes, which no file holds
# options that have an argument of their own
_ARGUMENTS = {"sft_model_path": "model", "dataset_name": "train_dataset"}
GRADER_OPTIONS = ("grader", "grade_table")
PROMPT_OPTIONS = ("grader_model", "grader_prompt", "label_descriptions", "contextual_calibration", "api_mode")
_LORA = {"r": "lora_r", "lora_alpha": "lora_alpha", "target_modules": "lora_target_modules"}


@contextlib.contextmanager
def arguments_in_messages(
    judge: str = "reward_funcs", prefix: str = "args.", temporary: bool = False
) -> Iterator[None]:
    """Errors in the block name arguments of Python, not flags: `args.learning_rate` instead of `--learning_rate`.

    Log messages are shown, if the program has set up no logging.

    Args:
        judge: The name of the argument that takes the judge.
        prefix: Of options that have no argument of their own.
        temporary: Whether the grade store is removed at the end, so that no message must send the user to it.
    """
    names = {**_ARGUMENTS, "grader": judge}
    try:
        with decisions_on_stderr():
            yield
    except UserFacingError as error:
        text = (
            STORED.sub(f"pass {prefix}grade_store=FILE to keep the good grades", str(error))
            if temporary
            else str(error)
        )
        message = re.sub(r"(?<![\w-])--(\w+)", lambda flag: names.get(flag[1], prefix + flag[1]), text)
        error.args = (message, *error.args[1:])
        raise


def refuse(name: str, value: Any, reason: str) -> None:
    """Raises InputError unless `value` of the argument `name`, which has no meaning here, is None."""
    require(value is None, f"{name}: {reason}")


def options_of(args: Any, config_class: type[G], trainer: str) -> dict[str, Any]:
    """The options of `args`, an instance of `config_class`; for None those that have no default of the class.

    Raises:
        InputError: Another class, such as TRL's config class.
    """
    if args is None:
        return {"output_dir": config_class.output_dir}
    expected = f"eightball_ppo.{config_class.__name__}"
    got = f"{type(args).__module__.split('.')[0]}.{type(args).__name__}"
    require(
        type(args) is config_class, f"args: {trainer} takes an {expected}, not a {got}; the names of options are alike"
    )
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}


def lora_options(peft_config: Any) -> dict[str, Any]:
    """The options of a `peft.LoraConfig`; {} for None.

    Raises:
        InputError: Another kind of adapter, or a setting that has no option here.
    """
    if peft_config is None:
        return {}
    from peft import LoraConfig

    plain, known = LoraConfig(), ", ".join(_LORA)
    require(type(peft_config) is LoraConfig, f"peft_config: a LoraConfig is needed, not a {type(peft_config).__name__}")
    for field in dataclasses.fields(plain):
        default, value = getattr(plain, field.name), getattr(peft_config, field.name)
        fixed = field.name not in (*_LORA, "task_type") and value != default
        require(not fixed, f"peft_config: {field.name}={value!r} has no meaning here; only {known} may be set")
    targets = peft_config.target_modules or []
    require(not isinstance(targets, str), f"peft_config: target_modules={targets!r}; name the layers in a list")
    return {
        "use_peft": True,
        "lora_r": peft_config.r,
        "lora_alpha": peft_config.lora_alpha,
        "lora_target_modules": sorted(targets),
    }


def given_inputs(
    config_class: type[G],
    options: dict[str, Any],
    model: str | os.PathLike[str] | PreTrainedModel,
    judge: Any,
    train: Any,
    evaluation: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[Inputs, G]:
    """The objects that take the place of what `options` name, and the options with the names and labels among them.

    Args:
        config_class: The class of the options.
        options: Those that differ from the defaults of the class.
        model: A name, a directory, or a loaded classifier.
        judge: What `run_method` takes as judge, or a text as for `--grader`.
        train: The texts to learn from; None: those that `options` name.
        evaluation: The texts to measure on; None: a part of `train`.
        tokenizer: Of a loaded classifier; None: that of the name that it was loaded from.

    Raises:
        InputError: Any of them cannot be used.
    """
    options, loaded = dict(options), None
    if isinstance(model, str | os.PathLike):
        refuse("processing_class", tokenizer, "a model that is named brings its own; load the model to pass another")
        options["sft_model_path"] = os.fspath(model)
        if train is not None:  # a model that the caller names is not the default, which is trained on the same data
            options["sft_model_path"] = _not_default(os.fspath(model), SFTConfig.output_dir)
            check_checkpoint(os.fspath(model), "--sft_model_path")
    else:
        loaded = _with_tokenizer(model, tokenizer)
        options["labels"] = list(label_set(loaded[0]).names)
    if isinstance(judge, str):
        options |= _named_judge(judge)
        judge = None
    if train is not None:
        options["dataset_name"] = os.fspath(train) if _is_path(train) else MEMORY
        if loaded is None and options.get("labels") == list(EIGHTBALL_LABELS):  # the default of the embedded data
            options["labels"] = None
    config = _config(config_class, options)
    _check_judge(judge, config, train is not None)
    config = with_labels(config)
    keeps = not isinstance(getattr(judge, "labels", None), LabelSet)  # a Grader reads texts alone
    return Inputs(loaded, judge, *_given_questions(config, train, evaluation, keeps)), config


def _given_questions(
    config: GraderTrainingConfig, train: Any, evaluation: Any, keeps: bool
) -> tuple[Questions | None, Questions | None]:
    """The questions to learn from and to measure on; None for those that `config` names."""
    labels = config.label_set()
    if evaluation is not None:
        require(
            config.gold_file is None, f"--gold_file {config.gold_file}: eval_dataset is given; leave one of them out"
        )
        learned = None if train is None else questions_from(train, config, None, "train", keeps)
        return learned, questions_from(evaluation, config, labels, "test", keeps)
    if train is None or _is_path(train):
        return None, None
    if config.gold_file is not None:
        return questions_from(train, config, None, "train", keeps), load_split(config, "test", labels, keeps)
    return cut_questions(train, config, labels, keeps)


def _config(config_class: type[C], options: dict[str, Any]) -> C:
    """An instance of `config_class`.

    Raises:
        InputError: An option that it does not have, or a value that it refuses.
    """
    known = {field.name for field in dataclasses.fields(config_class)}
    for name in options:
        require(name in known, f"{name}: no such option of {config_class.__name__}")
    return config_class(**options)


def _check_judge(judge: Any, config: GraderTrainingConfig, own_data: bool) -> None:
    """Checks the judge against the options that name another one.

    Raises:
        InputError: No judge at all, a judge and the options of another, or a reward model that is not there.
    """
    if judge is None:
        named = config.grade_table is not None or config.grader != GraderConfig.grader
        needs = "a judge is needed: a function, a Grader, the name of a grader, or the directory of a reward model"
        own_model = config.reward_model_path != RewardConfig.output_dir
        require(named or own_model or not own_data, f"--grader: {needs}")
        return
    members = check_judge(judge)
    taken = GRADER_OPTIONS if any(isinstance(member, str) for member in members) else GRADER_OPTIONS + PROMPT_OPTIONS
    defaults = type(config)()
    for name in taken:
        value = getattr(config, name)
        other = value != getattr(defaults, name)
        require(not other, f"--{name} {value}: is for a grader that the options name, and a judge is passed")


def _is_path(data: Any) -> bool:
    return isinstance(data, str | os.PathLike)


def _with_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
    """A loaded classifier, without adapters, and a tokenizer that cuts where the model has no more positions."""
    known = hasattr(model, "config") and hasattr(model, "state_dict")
    tokenizes = tokenizer is None or isinstance(tokenizer, PreTrainedTokenizerBase)
    require(tokenizes, f"processing_class: a tokenizer is needed, not a {type(tokenizer).__name__}")
    require(known, f"model: a name, a directory or a loaded classifier is needed, not a {type(model).__name__}")
    if hasattr(model, "peft_config"):
        model = merged(copy.deepcopy(model))
    if tokenizer is None:
        name = model.config._name_or_path
        require(bool(name), "processing_class: the model was loaded from no directory; pass its tokenizer")
        tokenizer = load_tokenizer(name, "processing_class")
    tokenizer = copy.deepcopy(tokenizer)
    set_max_length(tokenizer, model, None)
    return model, tokenizer


def _named_judge(name: str) -> dict[str, Any]:
    """The options of a judge that a text names: the directory of a reward model, or a text as for `--grader`."""
    path = local_path(name)
    if path is not None and path.is_dir():
        return {"grader": "bert", "reward_model_path": _not_default(name, RewardConfig.output_dir)}
    return {"grader": name}


def _not_default(name: str, default: str) -> str:
    return f"./{name}" if name == default else name


def given_audit(
    judge: Any, gold: Any, labels: Sequence[str] | None, options: dict[str, Any]
) -> tuple[Any, Questions | None, AuditConfig]:
    """The judge and the gold texts (None: those that the options name), and the options of an audit.

    Args:
        judge: As `given_inputs`.
        gold: Texts with gold labels.
        labels: Label names; None: those of the judge or of `gold`.
        options: Those that differ from the defaults.

    Raises:
        InputError: Any of them cannot be used, or a gold text has no label.
    """
    options = dict(options)
    if isinstance(judge, str):
        options |= _named_judge(judge)
        judge = None
    else:
        check_judge(judge)
    if labels is None and isinstance(getattr(judge, "labels", None), LabelSet):
        labels = judge.labels.names
    options["labels"] = None if labels is None else list(labels)
    questions = None
    if _is_path(gold):
        config = with_labels(
            _config(AuditConfig, {**options, "dataset_name": os.fspath(gold), "gold_file": os.fspath(gold)})
        )
    else:
        require(labels is not None, "labels: which ones? pass their names, for a judge that does not know them")
        config = _config(AuditConfig, {**options, "dataset_name": MEMORY})
        questions = questions_from(gold, config, config.label_set(), "test", keep_columns=True)
        require(questions.label_ids is not None, "gold: a gold label is needed for every text")
    return judge, questions, config
