"""Any number of labels, and any names: no eight-ball label and no literal 3 for their number outside `labels.py`, the
default recipe, the prompts and the data; and all stages run with two and with five labels of another kind."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForSequenceClassification

from conftest import REPOSITORY, write_rows
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import GradeConfig, RewardConfig, SFTConfig
from eightball_ppo.graders import export
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.packaged import minilm_dir
from eightball_ppo.report import tables

PACKAGE = REPOSITORY / "eightball_ppo"
SCRIPTS = [file for folder in ("scripts", "benchmarks") for file in (REPOSITORY / folder).glob("*.py")]
SOURCES = sorted([*PACKAGE.rglob("*.py"), *SCRIPTS])
TEXTS = sorted(file for file in PACKAGE.rglob("*") if file.suffix in {".jinja", ".html", ".js", ".css", ".json"})
WORD = re.compile(r"\b(?:Yes|YES|Maybe|MAYBE|NO)\b|\bNo\b(?! [a-z])")  # "No grades there." is English

STRATEGY = "transformers' word for: never"
ANY_WORDS = "words to break in two: any would do"
WORDS = {
    **{("benchmarks/fuzz_replies.py", word): ANY_WORDS for word in ("Yes", "No", "Maybe", "no", "Maybe=Maybe|Perhaps")},
    ("benchmarks/fuzz_replies.py", '{"answer": "Yes"}'): ANY_WORDS,
    ("benchmarks/soak.py", "rule:Yes"): "a label of the default data",
    ("runtime/launch.py", "no"): "accelerate's word for: no mixed precision",
    ("training/supervised.py", "no"): STRATEGY,
    ("methods/groups.py", "no"): STRATEGY,
    ("methods/ppo.py", "no"): STRATEGY,
    ("config/trl_unsupported.py", "no"): STRATEGY,
    ("runtime/distributed.py", "yes"): "how an environment variable says true",
}
FACTOR = "of a variance, a quantile or a time"
EXIT_CODE, DRAWING, EXAMPLES = "an exit code", "a size, layer or layout of a drawing", "this many examples are shown"
QKV = "query, key and value"
THREES = {
    ("benchmarks/coverage.py", "default=[3, 5]"): "seeds",
    ("benchmarks/coverage.py", "np.full((N, Q), 3.0)"): FACTOR,
    ("benchmarks/coverage.py", "-5 * 2 / 3"): FACTOR,
    ("benchmarks/coverage.py", "0.2 * 4 * 0.3 ** 2 / 3"): FACTOR,
    ("benchmarks/fuzz_replies.py", "max_size=3"): "parts of a reply",
    ("benchmarks/fuzz_replies.py", "st.floats(-3, 0)"): "log-probabilities",
    ("benchmarks/grading.py", "default=3"): "rounds",
    ("benchmarks/same_weights.py", "STOPPED_AFTER = 3"): "updates",
    ("benchmarks/soak.py", "round(last / first - 1, 3)"): "decimals",
    ("benchmarks/grading.py", "max_tokens=3"): "tokens",
    ("benchmarks/throughput.py", "seconds / 3"): FACTOR,
    ("benchmarks/throughput.py", "4096: 3"): FACTOR,
    ("benchmarks/throughput.py", "default=3.0"): "seconds",
    ("cli/parser.py", "4 if isinstance(error, TrainingDivergedError) else 3"): EXIT_CODE,
    ("comparison/results.py", "np.logspace(3, -3, FRONTIER_POINTS)"): "decades of beta on the frontier",
    ("comparison/wording.py", "min(max(1 - math.floor(math.log10(half)), 0), 6) if half else 3"): "decimals",
    ("demo/charts.py", "span / 3"): DRAWING,
    ("demo/run_data.py", "short[:3]"): EXAMPLES,
    ("demo/views.py", "textwrap.wrap(words, 11, break_long_words=True)[:3]"): "lines of the ball's window",
    ("graders/api/modes.py", "SHORT_REPLY_TOKENS = 3"): "tokens",
    ("graders/storage/score_table.py", "MAX_DETAILS = 3"): EXAMPLES,
    ("hub/push.py", "ATTEMPTS = 3"): "attempts of an upload",
    ("report/markdown.py", "max(3, max(map(len, re.findall('`+', value)), default=0) + 1)"): "backticks of a fence",
    ("training/trainer.py", "round(logs[name] * logs['train_runtime'] / seconds, 3)"): "decimals",
    ("audit/order_sensitivity.py", "NUM_REPEATS = 3"): "how often a sampling judge is asked",
    ("models/modeling_eightball.py", "3 * width"): QKV,
    ("models/modeling_eightball.py", "3 * heads"): QKV,
    ("models/modeling_eightball.py", "by_head_BTxd.permute(2, 0, 1, 3)"): "a dimension",
    (
        "models/modeling_eightball.py",
        "by_head_BTxd.permute(2, 0, 1, 3).reshape(3, heads * batch, tokens, depth)",
    ): QKV,
    ("config/training.py", "length >= 3"): "tokens: start, one, end",
    ("audit/page.py", "zorder=3"): DRAWING,
    ("comparison/report/draw.py", "zorder=3"): DRAWING,
    ("comparison/report/draw.py", "'zorder': 3"): DRAWING,
    ("comparison/report/draw.py", "float(rest[rest > 1e-12].min()) / 3"): DRAWING,
    ("comparison/report/draw.py", "'shrinkB': 3"): DRAWING,
    ("comparison/report/figures.py", "3 if len(panels) == 3 else 2"): DRAWING,
    ("comparison/report/figures.py", "len(panels) == 3"): DRAWING,
    ("comparison/report/figures.py", "5 if columns > 1 else 3"): DRAWING,
    ("report/pages.py", "default of number"): "decimals",
    ("report/pages.py", "colour[:3]"): "red, green, blue",
}


def label_words(source: str) -> Iterator[str]:
    """What in Python source names an eight-ball label: string constants, docstrings aside, and parts of identifiers."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
        if isinstance(text, str) and (WORD.search(text) or text.strip().lower() in ("yes", "no", "maybe")):
            yield text
        for name in (getattr(node, field, None) for field in ("id", "name", "arg", "attr")):
            if isinstance(name, str) and {"yes", "maybe"} & set(name.lower().split("_")):
                yield name


def threes(source: str) -> Iterator[str]:
    """The expressions in which a literal 3, a third, or 0.333 stands: each as the source of its nearest meaning."""
    tree = ast.parse(source)
    parents: dict[ast.AST, ast.AST] = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(value, int | float) or not (value == 3 or 0.33 <= value <= 0.334):
            continue
        parent = parents[node]
        while isinstance(parent, ast.Slice | ast.Tuple | ast.List | ast.arguments | ast.UnaryOp):
            parent = parents[parent]
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield f"default of {getattr(parent, 'name', 'lambda')}"
        elif isinstance(parent, ast.For):
            yield f"for ... in {ast.unparse(parent.iter)}"
        elif isinstance(parent, ast.Dict):
            keys = [key for key, value in zip(parent.keys, parent.values, strict=True) if value is node]
            yield f"{ast.unparse(keys[0])}: 3" if keys and keys[0] is not None else ast.unparse(parent)
        else:
            yield ast.unparse(parent)


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else REPOSITORY))


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_label_word_and_no_number_of_labels(file: Path) -> None:
    """What is found and means something else gets a line with the reason in `WORDS` or `THREES`."""
    source, name = file.read_text(encoding="utf-8"), name_of(file)
    if name != "labels.py":
        words = {word for word in label_words(source) if (name, word) not in WORDS}
        assert not words, f"{name} names labels of the eight ball: {words}; take them from the label set"
    found = {three for three in threes(source) if (name, three) not in THREES}
    assert not found, f"{name}: is this 3 the number of labels? {found}; take it from the label set"


def test_no_label_word_in_templates_other_than_prompts() -> None:
    for file in TEXTS:
        if file.parent.name != "prompts":
            assert not WORD.search(file.read_text(encoding="utf-8")), name_of(file)


@pytest.mark.parametrize(
    "code",
    [
        'labels = ["Yes"]',
        'grader = "rule:Yes"',
        'answer == "No"',
        'print("Say Yes, No or Maybe.")',
        'text = f"Maybe {name}"',
        "yes_count += 1",
        "p = record.p_maybe",
        "def f(yes): pass",
        "ANSWERS = dict(YES=0)",
    ],
)
def test_label_words_are_found(code: str) -> None:
    assert list(label_words(code))


@pytest.mark.parametrize(
    "code",
    [
        "Classifier(num_labels=3)",
        "for label in range(3): pass",
        "x.view(-1, 3)",
        "torch.zeros([n, 3])",
        "chance = 1 / 3",
        "uniform = 0.333",
        "def f(k=3): pass",
        "assert len(labels) == 3",
        "logits[:, :3]",
        "sizes = {'labels': 3}",
    ],
)
def test_threes_are_found(code: str) -> None:
    assert list(threes(code))


def test_plain_english_and_other_numbers_pass() -> None:
    code = '"""Yes, No or Maybe."""\nhelp = "No progress bars."\ncode, rate, size = 2, 0.3, 30\nnone = notes'
    assert not list(label_words(code)) and not list(threes(code))


# --- with other labels, end to end

TEXT_OF = {
    2: {"spam": "win a free prize", "ham": "lunch on tuesday then"},
    5: {
        "refund please": "money back now",
        "outage": "server is down again",
        "how-to": "how can one set this up",
        "praise": "great work folks",
        "[/b] $$ | <i>": "the weather is mild",  # markup, mathematics, cells: words of those who label
    },
}


def write_data(directory: Path, texts: dict[str, str]) -> str:
    """Twelve texts a label, four splits."""
    directory.mkdir()
    rest = [
        "today",
        "here",
        "sir",
        "as said",
        "once more",
        "my friend",
        "at home",
        "for real",
        "really",
        "you see",
        "I say",
    ]
    for split, ends in {"sft": rest[:3], "preferences": rest[3:7], "rl": rest[7:9], "heldout": rest[9:]}.items():
        rows = [{"note": f"{text} {end}", "kind": label} for end in ends for label, text in texts.items()]
        write_rows(directory / f"{split}.jsonl", [{"note": row["note"]} if split == "rl" else row for row in rows])
    return str(directory)


def write_encoder(directory: Path) -> str:
    """A BERT of a few thousand weights that nobody has trained."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(minilm_dir())).save_pretrained(directory)
    return str(directory)


def test_words_that_a_terminal_would_draw_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    shares = {":x:": 0.5, "[b]": 0.25, "$^$": 0.25}
    tables.print_record("[m]", ":+1:", {"label_histogram": shares})
    said = capsys.readouterr().out
    assert all(word in said for word in ("[m]", ":+1:", ":x: 0.500", "[b] 0.250", "$^$ 0.250"))


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_every_stage_runs_with_labels_of_another_kind_and_number(number: int, tmp_path: Path) -> None:
    texts = TEXT_OF[number]
    names, wanted = list(texts), list(texts)[-1]
    shared: dict[str, Any] = {
        "dataset_name": write_data(tmp_path / "data", texts),
        "text_column": "note",
        "label_column": "kind",
        "labels": names,
        "disable_tqdm": True,
    }
    runs = {name: tmp_path / name for name in ("sft", "reward", "grades", "distill", "ppo", "judged")}
    out = {name: {"output_dir": str(run)} | shared for name, run in runs.items()}
    graded: dict[str, Any] = {"sft_model_path": str(runs["sft"]), "reward_model_path": str(runs["reward"])}
    encoder = write_encoder(tmp_path / "encoder")

    sft.train(SFTConfig(num_train_epochs=2, **out["sft"]))
    reward_model.train(
        RewardConfig(model_name_or_path=encoder, num_train_epochs=1, validation_fraction=0.25, **out["reward"])
    )
    export.run(GradeConfig(grader=f"rule:{wanted}", **out["grades"]))
    run_method(DistillConfig(grader=f"rule:{wanted}", **graded, **out["distill"]))
    few: dict[str, Any] = {"total_episodes": 960, "repeats_per_epoch": 20}
    run_method(PPOConfig(grader=f"rule:{wanted}", kl_coef=0.5, **few, **graded, **out["ppo"]))
    run_method(PPOConfig(allow_weak_grader=True, **few, **graded, **out["judged"]))

    assert set(pd.read_parquet(runs["grades"] / "grades.parquet")["label"]) == set(names)
    for run in (run for name, run in runs.items() if name != "grades"):
        assert AutoConfig.from_pretrained(run).id2label == dict(enumerate(names))
        record = json.loads((run / "results.json").read_text())["splits"]["heldout"]
        assert list(record["label_histogram"]) == names
        assert sum(record["label_histogram"].values()) == pytest.approx(1, abs=1e-4)
    for run in (runs["distill"], runs["ppo"]):
        record = json.loads((run / "results.json").read_text())
        before, after = record["reference"]["heldout"], record["splits"]["heldout"]
        assert after["label_histogram"][wanted] > max(before["label_histogram"][wanted], 0.6)
        assert wanted in (run / "README.md").read_text(encoding="utf-8")
