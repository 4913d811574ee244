"""Every check of a method that needs no grade: it runs before anything is trained and before a judge is asked."""

from collections.abc import Mapping
from typing import Any, TypeVar

from transformers import PreTrainedModel

from eightball_ppo.config import registry
from eightball_ppo.config.fields import require
from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.config.model import SMALL_CLASSIFIER, LoraOptions
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.budgeted_scores import calls_of_row, check_budget, check_budget_single_process
from eightball_ppo.methods.defaults import resolve_defaults
from eightball_ppo.methods.inputs import LoadedModel, load_reference, read_frozen
from eightball_ppo.methods.prerequisites import reference_options
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.loading import load_new_classifier, new_frozen_classifier, text_logits_NK
from eightball_ppo.models.lora import check_lora
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
from eightball_ppo.models.safe_loading import first_line
from eightball_ppo.models.trainable import check_rates
from eightball_ppo.runtime.launch import require_one_precision
from eightball_ppo.training.trackers import resolve_report_to

C = TypeVar("C", bound=MethodConfig)


def preflight(
    config: C, questions: Mapping[str, Questions], given: LoadedModel | None = None
) -> tuple[C, LoadedModel | None]:
    """Checks the options of a method; trains nothing and calls no grader.

    Args:
        config: The options of the method.
        questions: The splits, of `load_splits`.
        given: The reference and its tokenizer, instead of what `config` names.

    Returns:
        The options with the defaults that fit the classifier, and the reference; None if it is still to be trained.

    Raises:
        InputError: An option, or a reference, with which the training could not run.
    """
    name = registry.method_of(config)
    spec = registry.METHODS[name]
    if spec.samples:
        check_budget_single_process(config)
        require_one_precision()
    elif name != registry.REFERENCE:
        check_budget(config.grader_call_budget, calls_of_row(len(config.label_set()), config.score_type != "raw"))
    resolve_report_to(config.report_to)
    options = None if given else reference_options(config)
    reference = load_reference(config, given) if options is None else None
    if reference is not None:
        _check_classifies(reference, config)
    classifier = _untrained(options, config) if reference is None else reference[0]
    config = resolve_defaults(config, classifier, len(questions["train"]))
    check_questions(config, len(questions["train"]))
    if isinstance(config, LoraOptions):
        check_rates(classifier, config)
        if config.use_peft:
            check_lora(classifier, config)
    return config, reference


def _check_classifies(reference: LoadedModel, config: MethodConfig) -> None:
    """Raises InputError unless the reference gives one logit for each label of a text."""
    model, labels = type(reference[0]).__name__, len(config.label_set())
    try:
        found = list(text_logits_NK(*reference, Questions("a text", ["?"])).shape)
    except Exception as error:  # of a model that is no classifier, or of another tokenizer
        raise InputError(f"--sft_model_path: {model} classifies no text ({first_line(error)})") from None
    require(found == [1, labels], f"--sft_model_path: {model} gives logits {found} of a text, not [1, {labels}]")


def check_questions(config: MethodConfig, num_questions: int) -> None:
    """Raises InputError if the method of `config` cannot learn from so many questions, or cannot be loaded."""
    name = registry.method_of(config)
    spec = registry.METHODS[name]
    load_part(name, spec.fit)
    if spec.check is not None:
        load_part(name, spec.check)(config, num_questions)


def load_part(method: str, reference: str) -> Any:
    """The function of a method that "module:name" names.

    Raises:
        InputError: It cannot be loaded.
    """
    try:
        return registry.load(reference)
    except (AttributeError, ImportError, ValueError) as error:
        raise InputError(f"method {method}: {reference} cannot be loaded ({error})") from None


def _untrained(options: Any, config: MethodConfig) -> PreTrainedModel:
    """A classifier of the kind that training with these options of SFT would give, with random weights in its head."""
    if options.model_name_or_path == SMALL_CLASSIFIER:
        return EightBallForSequenceClassification(EightBallConfig(num_labels=len(config.label_set())))
    name, flag = options.model_name_or_path, "sft: model_name_or_path"
    if options.freeze_encoder:
        head, trust = options.head_hidden_size, options.trust_remote_code
        classifier = new_frozen_classifier(name, flag, config.label_set(), head, trust)[0]
    else:
        classifier = load_new_classifier(name, flag, config.label_set(), options.trust_remote_code)[0]
    return read_frozen(config, classifier)
