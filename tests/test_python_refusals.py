"""Whatever a Python program passes wrongly is one line, before the judge is asked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from eightball_ppo import (
    DistillConfig,
    DistillTrainer,
    ExactTrainer,
    IncompleteError,
    InputError,
    audit,
    compare,
    load_policy,
)
from eightball_ppo.config.methods import ExactConfig

pytestmark = pytest.mark.usefixtures("no_figures")
TEXTS = [f"Will there be {number} of them?" for number in range(30)]
CALLS: list[str] = []


def scores(texts: list[str], labels: list[str]) -> list[list[float]]:
    CALLS.extend(texts)
    return [[float(len(label)) for label in labels] for _ in texts]


def needs_solution(completions: list[str], solution: list[str], **_: Any) -> list[float]:
    CALLS.extend(completions)
    return [float(completion == right) for completion, right in zip(completions, solution, strict=True)]


def bare_encoder() -> BertModel:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    names = {0: "Yes", 1: "No", 2: "Maybe"}
    return BertModel(
        BertConfig(vocab_size=40, **sizes, id2label=names, label2id={name: i for i, name in names.items()})
    )


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1.5}, r"seed 1.5: input should be a valid integer"),
    ({"dtype": "float16"}, r"dtype 'float16': input should be 'float32' or 'bfloat16'"),
    ({"target": "softt"}, r"target 'softt': input should be 'hard', 'soft'"),
    ({"kl_coef": "0.1"}, r"kl_coef '0.1': input should be a valid number"),
    ({"lr_scheduler_type": "foo"}, r"lr_scheduler_type 'foo': input should be"),
    ({"grade_table": "nope.parquet"}, r"args.grade_table nope.parquet: is for a grader that the options name"),
    ({"grader": "rule:Yes"}, r"reward_funcs rule:Yes: is for a grader that the options name"),
    ({"label_descriptions": {"Yes": "agreed"}}, r"args.label_descriptions .*is for a grader that the options name"),
    ({"grader_weights": [2.0]}, r"args.grader_weights: one judge alone has no weight"),
    ({"gold_file": "/nowhere.csv"}, r"args.gold_file /nowhere.csv: no such file"),
    ({"dataset_test_split": "valid"}, r"args.dataset_test_split valid: is no share"),
    ({"dry_run": True}, r"args.dry_run: is of the command line"),
    ({"label_column": "nix"}, r"no column 'nix'"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=lambda value: str(value)[:40])
def test_an_option_of_another_type_or_of_another_judge_is_refused_before_any_call(
    options: dict[str, Any], message: str, sft_run: Path
) -> None:
    CALLS.clear()
    with pytest.raises(InputError, match=message) as error:
        DistillTrainer(str(sft_run), scores, DistillConfig(**options), TEXTS).train()
    assert not CALLS and "\n" not in str(error.value)


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"reward_funcs": None}, "reward_funcs: a judge is needed"),
    ({"reward_funcs": 3}, "a function, a Grader, the name of a grader, or a list of these is needed, got int"),
    ({"callbacks": ["x"]}, "callbacks: a TrainerCallback is needed, not a str"),
    ({"processing_class": "x"}, "processing_class: a tokenizer is needed, not a str"),
    ({"model": "base"}, "BertModel classifies no text"),
    ({"train_dataset": "nope.csv"}, "nope.csv: no such data file"),
    ({"eval_dataset": "nope.csv"}, "nope.csv: no such data file"),
    ({"train_dataset": {"text": "abc"}}, "a column of a dict is a list of values"),
    ({"reward_funcs": needs_solution}, "needs the column 'solution'; the other columns of train data are"),
    (
        {"reward_funcs": needs_solution, "train_dataset": [{"question": text, "solution": "Yes"} for text in TEXTS]}
        | {"eval_dataset": ["Is it over?"]},
        "needs the column 'solution'; the other columns of test data are",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_an_argument_that_cannot_be_used_is_refused_before_any_call(
    arguments: dict[str, Any], message: str, sft_run: Path
) -> None:
    CALLS.clear()
    model, tokenizer = load_policy(sft_run)
    given: dict[str, Any] = {"model": model, "reward_funcs": scores, "train_dataset": TEXTS, **arguments}
    given |= {"processing_class": given.get("processing_class", tokenizer)}
    if given["model"] == "base":
        given["model"] = bare_encoder()
    with pytest.raises(InputError, match=message) as error:
        ExactTrainer(args=ExactConfig(num_train_epochs=1, disable_tqdm=True), **given).train()
    assert not CALLS and "\n" not in str(error.value)


def test_paths_tuples_and_numbers_of_other_libraries_are_taken(tmp_path: Path) -> None:
    config = DistillConfig(output_dir=tmp_path, seed=torch.tensor(3), labels=("a", "b"))  # type: ignore[arg-type]
    assert (config.output_dir, config.seed, config.labels) == (str(tmp_path), 3, ["a", "b"])


def test_options_that_nobody_knows_and_files_in_the_way_are_refused(sft_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nope: no such option of AuditConfig"):
        audit(scores, [{"question": "Is it?", "answer": "Yes"}], labels=["Yes", "No"], nope=3)
    with pytest.raises(InputError, match="nope: no such option of CompareConfig"):
        compare(["sft"], sft_run, scores, TEXTS, nope=3)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match=r"save_model: .*taken is a file; name a directory"):
        ExactTrainer(str(sft_run), scores, train_dataset=TEXTS).save_model(tmp_path / "taken")
    with pytest.raises(InputError, match=r"none of them blank; text 1 is ' '"):
        ExactTrainer(str(sft_run), scores, train_dataset=TEXTS).predict(["Is it?", " "])


@pytest.mark.parametrize("kind", ["function", "coroutine", "labeller"])
def test_a_judge_that_exits_is_a_failed_grade_and_ends_no_program(kind: str, sft_run: Path) -> None:
    def leave(texts: Any, labels: Any) -> Any:
        raise SystemExit(0)

    async def later(texts: Any, labels: Any) -> Any:
        raise SystemExit(1)

    def label(text: str) -> str:
        raise SystemExit(2)

    judge = {"function": leave, "coroutine": later, "labeller": label}[kind]
    with pytest.raises(IncompleteError, match=r"called sys.exit\(\d\).*pass args.grade_store=FILE") as error:
        DistillTrainer(str(sft_run), judge, DistillConfig(disable_tqdm=True), TEXTS).train()
    assert "good grades are stored" not in str(error.value)  # in a store that is removed
