"""What a method starts from: the questions and the reference, named by the options or given as objects."""

import copy
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.data import Questions, load_both
from eightball_ppo.data.questions import cut_held_out, drop_leaks
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.job import check_grades
from eightball_ppo.graders.judges import reward_functions
from eightball_ppo.graders.raters import gold_of_others
from eightball_ppo.graders.registry import check_graders, panels_of
from eightball_ppo.graders.reward_functions import check_columns, columns_by_text
from eightball_ppo.models.frozen import freeze_encoder
from eightball_ppo.models.loading import label_set, load_classifier
from eightball_ppo.models.precision import cast_encoder
from eightball_ppo.models.tokenization import set_max_length

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Inputs(NamedTuple):
    """Objects that replace what a config names; None: what it names.

    Attributes:
        model: The reference and its tokenizer.
        judge: Scores the answers.
        train: The questions to learn from.
        evaluation: The questions to measure on, with gold labels or none.
    """

    model: LoadedModel | None = None
    judge: Grader | None = None
    train: Questions | None = None
    evaluation: Questions | None = None


NO_INPUTS = Inputs()


def load_splits(config: GraderTrainingConfig, given: Inputs = NO_INPUTS) -> dict[str, Questions]:
    """The questions to learn from, "train", and those to measure on, "heldout", with labels where they have some.

    Where the caller passes "train" alone, "heldout" is cut from it.

    Raises:
        InputError: Bad data, labels, grader options, table or store. Nothing is trained or graded for this check.
    """
    labels = config.label_set()
    if given.judge is None:
        check_graders(config, labels)
    asked = given.judge is not None or config.grade_table is None
    functions = reward_functions(config.grader if given.judge is None else given.judge) if asked else []
    train, evaluation = given.train, given.evaluation
    if train is not None and evaluation is None:
        train, evaluation = cut_held_out(train)
    elif train is None:
        train, heldout = load_both(config, None, labels, bool(functions))
        evaluation = heldout if evaluation is None else evaluation
    assert train is not None and evaluation is not None
    if given.train is not None or given.evaluation is not None:
        train = drop_leaks(train, evaluation)
    panels = panels_of(config.grader) if given.judge is None else []
    if panels and given.evaluation is None and config.gold_file is None:
        evaluation = gold_of_others(evaluation, config.dataset_name, panels, labels)
    splits = {"train": train, "heldout": evaluation}
    for split in splits.values() if functions else ():
        check_columns(functions, columns_by_text(split), split.source)
    check_grades(config, labels, ArrowTexts.concatenate(split.texts for split in splits.values()), given.judge)
    return splits


def read_frozen(config: MethodConfig, classifier: PreTrainedModel) -> PreTrainedModel:
    """`classifier`, its encoder frozen or not as `--freeze_encoder` says; by default as it was for the reference."""
    asked = getattr(config, "freeze_encoder", None)
    frozen = getattr(classifier.config, "frozen", False) if asked is None else asked
    if hasattr(classifier.config, "frozen"):
        classifier.config.frozen = frozen
    return freeze_encoder(classifier) if frozen else classifier


def load_reference(config: MethodConfig, given: LoadedModel | None = None) -> LoadedModel:
    """The classifier that training starts from and its tokenizer: a copy of `given`, or what `config` names.

    Raises:
        InputError: A bad checkpoint, or other labels than those of `config`.
    """
    if given is None:
        name = f"--sft_model_path {config.sft_model_path}"
        classifier, tokenizer = load_classifier(
            config.sft_model_path, "--sft_model_path", DTYPES[config.dtype], config.trust_remote_code
        )
    else:
        (classifier, tokenizer), name = copy.deepcopy(given), "the model that was passed"
        classifier = cast_encoder(classifier.to("cpu", torch.float32), DTYPES[config.dtype], name).eval()
    labels = config.label_set()
    labels.require_same(label_set(classifier), "--labels", name)
    assert labels == label_set(classifier), "`with_labels` puts the labels into the order of the classifier"
    set_max_length(tokenizer, classifier, config.max_length)
    return read_frozen(config, classifier), tokenizer
