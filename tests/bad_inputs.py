"""Bad inputs to every script: the command line, the files it is given, and the words that its one line must hold.

In command lines `{data}`, `{sft}` and `{reward}` stand for a small data set and finished runs; other names are files of
the case, in a working directory of its own. A stage gets these three as its data set and models, where its command line
names no others.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eightball_ppo.labels import EIGHTBALL_LABELS

Content = bytes | str | Callable[[Path, dict[str, Path]], None]
"""What a file holds; or what makes it, given its path and the finished runs by name."""


class BadInput(NamedTuple):
    """`argv`: the command and its options. `says`: parts of the line on stderr: file, row, value, remedy. `labels`: for
    `--labels`, none to have them inferred."""

    name: str
    argv: str | list[str]
    says: tuple[str, ...]
    files: Mapping[str, Content] = MappingProxyType({})
    labels: tuple[str, ...] = EIGHTBALL_LABELS


ROW = '{"question": "Is it?", "answer": "Yes"}\n'
DIGITS = "9" * 30


def copy_of(name: str, **changed: Callable[[bytes], bytes] | None) -> Content:
    """A finished run with other bytes in some files (dots in names are `_`), or without them (None)."""

    def make(directory: Path, runs: dict[str, Path]) -> None:
        directory.mkdir(parents=True)
        for file in filter(Path.is_file, runs[name].iterdir()):
            change = changed.get(file.name.replace(".", "_"), lambda own: own)
            if change is not None:
                (directory / file.name).write_bytes(change(file.read_bytes()))

    return make


def with_options(**options: object) -> Callable[[bytes], bytes]:
    """A JSON object with some values replaced."""
    return lambda content: json.dumps({**json.loads(content), **options}).encode()


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Content:
    """A grade table of the small data set, changed."""

    def make(file: Path, runs: dict[str, Path]) -> None:
        lines = [line for split in ("rl", "heldout") for line in (runs["data"] / f"{split}.jsonl").open()]
        questions = list(dict.fromkeys(json.loads(line)["question"] for line in lines))
        rows = [(question, label, score) for question in questions for label, score in SCORES.items()]
        frame = pd.DataFrame(rows, columns=["question", "label", "score"]).assign(status="ok", grader="mine")
        pq.write_table(pa.Table.from_pandas(change(frame), preserve_index=False), file)

    return make


SCORES = {"Yes": -0.6931471805599453, "No": -1.3862943611198906, "Maybe": -1.3862943611198906}


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame.iloc[:1], frame])


def split(content: bytes | str, ending: str = "jsonl") -> dict[str, Content]:
    """A data set whose training questions are `content`, for the stages that learn from a grader."""
    return {f"d/rl.{ending}": content, "d/heldout.jsonl": ROW * 5}


MINE = "--dataset_name d"
SFT = "--sft_model_path ./m"
JUDGE = "--grader api --grader_model J --grader_base_url http://127.0.0.1:9/v1"
RUN: dict[str, Content] = {"r/config.yaml": "{}", "r/results.json": '{"method": "ppo", "splits": {}}'}

BAD_INPUTS = [
    # data
    BadInput("no data set", "sft --dataset_name ./nowhere", ("nowhere: no such dataset directory", "--dataset_name")),
    BadInput("an empty file", f"ppo {MINE}", ("d/rl.jsonl: no rows", "at least one question"), split("")),
    BadInput("NUL bytes", f"distill {MINE}", ("d/rl.jsonl:2: not JSON",), split(ROW + "\0\0\n")),
    BadInput("Latin-1", f"rloo {MINE}", ("d/rl.jsonl:2: not UTF-8", "re-encode"), split(ROW.encode() + b"caf\xe9\n")),
    BadInput("UTF-16", f"grpo {MINE}", ("d/rl.jsonl:1: not UTF-8", "re-encode"), split(ROW.encode("utf-16"))),
    BadInput("a BOM in the middle", f"exact {MINE}", ("d/rl.jsonl:2: not JSON",), split(f"{ROW}\ufeff{ROW}")),
    BadInput("a huge line", f"ppo {MINE}", ("d/rl.jsonl:1: not JSON",), split('{"question": "' + "a " * 10**6)),
    BadInput("lists in lists", f"ppo {MINE}", ("d/rl.jsonl:1: no JSON that can be read",), split("[" * 10**5)),
    BadInput("5,000 digits", f"ppo {MINE}", ("d/rl.jsonl:1: no JSON",), split(f'{{"question": {"9" * 5000}}}')),
    BadInput("NaN for a text", f"ppo {MINE}", ("d/rl.jsonl:1:", "'question'", "nan"), split('{"question": NaN}\n')),
    BadInput("a blank text", f"best_of_n {MINE}", ("d/rl.jsonl:1:", "non-blank", "' '"), split('{"question": " "}\n')),
    BadInput("no such column", f"ppo {MINE} --text_column q", ("d/rl.jsonl:1: no column 'q'", "question"), split(ROW)),
    BadInput(
        "a header twice",
        f"ppo {MINE}",
        ("d/rl.csv:1:", "duplicate column 'question'"),
        split("question,question\nA?,B?\n", "csv"),
    ),
    BadInput("an open quote", f"ppo {MINE}", ("d/rl.csv:2: not CSV", "quote"), split('question\n"A?\n', "csv")),
    BadInput(
        "too many commas",
        f"ppo {MINE}",
        ("d/rl.csv:2:", "names 1 columns, this row has 2"),
        split("question\nA?,B\n", "csv"),
    ),
    BadInput("no Parquet", f"ppo {MINE}", ("d/rl.parquet: not a Parquet file",), split("question", "parquet")),
    BadInput(
        "a directory for a file",
        f"ppo {MINE}",
        ("d/rl.jsonl: no such file", "splits here"),
        {"d/rl.jsonl/x": "", "d/heldout.jsonl": ROW},
    ),
    BadInput(
        "an unknown label",
        f"reward {MINE}",
        ("d/preferences.jsonl:2: unknown label 'Perhaps'", "known: ['Yes', 'No', 'Maybe']"),
        {"d/preferences.jsonl": ROW + ROW.replace("Yes", "Perhaps")},
    ),
    BadInput(
        "a label in another case",
        f"sft {MINE}",
        ("d/sft.jsonl:1: unknown label 'yes'",),
        {"d/sft.jsonl": ROW.replace("Yes", "yes")},
    ),
    BadInput(
        "a label of another kind",
        f"ppo {MINE}",
        ("d/heldout.jsonl:1: column 'answer'", "1.0"),
        {"d/rl.jsonl": ROW, "d/heldout.jsonl": '{"question": "A?", "answer": 1.0}'},
    ),
    BadInput(
        "saved by nobody",
        f"ppo {MINE} --dataset_train_split train --dataset_test_split 0.2",
        ("d: not what datasets.save_to_disk writes",),
        {"d/state.json": "[]", "d/dataset_info.json": "[]"},
    ),
    BadInput("one label", "ppo --labels Yes", ("--labels ['Yes']: at least 2 are needed",)),
    BadInput("a label twice", "ppo --labels Yes No Yes", ("'Yes' stands twice",)),
    BadInput("a label without a name", ["ppo", "--labels", "Yes", ""], ("labels: '' is no name",)),
    # options
    BadInput("NaN", "ppo --kl_coef nan", ("--kl_coef nan: must be a finite number",)),
    BadInput("a negative price", "rloo --kl_coef -1", ("--kl_coef -1.0: must not be negative", "0 switches")),
    BadInput("a price without bounds", "exact --kl_coef 1e300", ("--kl_coef 1e+300: at most 1e+06",)),
    BadInput(
        "a count without bounds", f"ppo --num_ppo_epochs {DIGITS}", (f"--num_ppo_epochs {DIGITS}: at most 1000000000",)
    ),
    BadInput(
        "epochs without bounds", "sft --num_train_epochs 1e300", ("--num_train_epochs 1e+300:", "at most 1000000000")
    ),
    BadInput("no number", "grpo --epsilon little", ("--epsilon", "invalid float value: 'little'", "--help")),
    BadInput("an unknown option", "distill --temprature 2", ("unknown option --temprature 2", "--help")),
    BadInput("an unknown method", "compare --methods pppo", ("--methods pppo: unknown", "known: sft")),
    BadInput("an unknown grader", "grade --grader brt", ("--grader brt: unknown grader", "did you mean bert?")),
    BadInput("graders in graders", f"ppo --grader {'noisy:0.1:' * 2000}brt", ("unknown grader",)),
    BadInput("a seed without bounds", f"ppo --grader random-head:{DIGITS}", ("whole number below a billion",)),
    # configurations
    BadInput("no configuration", "ppo --config ./nowhere.yaml", ("nowhere.yaml: unreadable YAML", "No such file")),
    BadInput("broken YAML", "ppo --config c.yaml", ("c.yaml: unreadable YAML", "line 1"), {"c.yaml": "a: b: c"}),
    BadInput(
        "a tag",
        "ppo --config c.yaml",
        ("c.yaml: unreadable YAML", "constructor for the tag"),
        {"c.yaml": "seed: !!python/object/apply:os.getpid []"},
    ),
    BadInput("a list", "sft --config c.yaml", ("c.yaml: a YAML mapping of options is needed",), {"c.yaml": "- a"}),
    BadInput("an unknown key", "audit --config c.yaml", ("c.yaml: unknown option 'goldd'",), {"c.yaml": "goldd: a"}),
    BadInput(
        "an option twice",
        "ppo --config c.yaml",
        ("c.yaml: unreadable YAML", "'seed' stands twice", "line 2"),
        {"c.yaml": "seed: 1\nseed: 2\n"},
    ),
    BadInput(
        "a day that is none",
        "ppo --config c.yaml",
        ("c.yaml: unreadable YAML", "month"),
        {"c.yaml": "output_dir: 2024-13-01"},
    ),
    BadInput("deep YAML", "ppo --config c.yaml", ("c.yaml: unreadable YAML", "recursion"), {"c.yaml": "[" * 1000}),
    BadInput("a strange env", "ppo --config c.yaml", ("c.yaml: env: a mapping", "['a']"), {"c.yaml": "env: [a]"}),
    # models
    BadInput("no checkpoint", "ppo --sft_model_path ./m", ("--sft_model_path ./m: no such directory",)),
    BadInput(
        "a torn checkpoint",
        f"ppo {SFT}",
        ("--sft_model_path ./m: not a loadable checkpoint",),
        {"m": copy_of("sft", model_safetensors=lambda own: own[:1000])},
    ),
    BadInput(
        "a config that is no JSON",
        f"exact {SFT}",
        ("--sft_model_path ./m: config.json is damaged", "nterminated"),
        {"m": copy_of("sft", config_json=lambda own: own[:50])},
    ),
    BadInput(
        "no tokenizer",
        f"distill {SFT}",
        ("--sft_model_path ./m: not a loadable checkpoint",),
        {"m": copy_of("sft", tokenizer_json=None, tokenizer_config_json=None)},
    ),
    BadInput(
        "weights of other shapes",
        f"rloo {SFT}",
        ("--sft_model_path ./m: not a loadable checkpoint",),
        {"m": copy_of("sft", config_json=with_options(embedding_size=8))},
    ),
    BadInput(
        "a gap in id2label",
        f"grpo {SFT}",
        ("--sft_model_path ./m: labels: id2label has the ids [0, 1, 5]",),
        {"m": copy_of("sft", config_json=with_options(id2label={"0": "Yes", "1": "No", "5": "Maybe"}))},
    ),
    BadInput(
        "adapters on themselves",
        ["ppo", *SFT.split(), "--dataset_name", "./d"],
        ("--sft_model_path ./m: its adapters stand on themselves",),
        {
            "m/adapter_config.json": '{"base_model_name_or_path": "./m", "peft_type": "LORA"}',
            "m/adapter_model.safetensors": "x",
            "d/x": "",
        },
        labels=(),
    ),
    BadInput(
        "a reward model of other labels",
        "audit --reward_model_path ./m",
        ("labels differ", "--reward_model_path ./m"),
        {"m": copy_of("reward", config_json=with_options(id2label={"0": "a", "1": "b", "2": "c"}))},
    ),
    BadInput(
        "a tokenizer of anything",
        "sft --tokenizer ./t",
        ("--tokenizer ./t: no tokenizer there",),
        {"t/tokenizer.json": "[]", "t/tokenizer_config.json": "{}"},
    ),
    # grades
    BadInput(
        "a missing question",
        "ppo --grade_table t.parquet",
        ("--grade_table t.parquet: lacks 1 of", "made from other data?"),
        {"t.parquet": table(lambda own: own.iloc[3:])},
    ),
    BadInput(
        "a grade without bounds",
        "distill --grade_table t.parquet",
        ("--grade_table t.parquet:", "'Yes'", "score inf"),
        {"t.parquet": table(lambda own: own.assign(score=own["score"].where(own.index > 0, float("inf"))))},
    ),
    BadInput(
        "a grade twice",
        "exact --grade_table t.parquet",
        ("--grade_table t.parquet:", "occurs 2 times"),
        {"t.parquet": table(doubled)},
    ),
    BadInput(
        "grades of other labels",
        "compare --grade_table t.parquet",
        ("--grade_table t.parquet: has the labels", "'yes'"),
        {"t.parquet": table(lambda own: own.assign(label=own["label"].str.lower()))},
    ),
    BadInput(
        "a store that is none", "grade --grade_store g", ("--grade_store g: not a grade store",), {"g": "x" * 5000}
    ),
    BadInput("a judge nobody has", "grade --grader api --grader_model J", ("--grader_base_url",)),
    BadInput(
        "a prompt that is none",
        f"audit {JUDGE} --grader_prompt p.jinja",
        ("--grader_prompt p.jinja",),
        {"p.jinja": "{{ "},
    ),
    BadInput(
        "a gold label in another case",
        "audit --gold_file g.jsonl",
        ("g.jsonl:2: unknown label 'YES'",),
        {"g.jsonl": ROW + ROW.replace("Yes", "YES")},
    ),
    # places
    BadInput("an output that is a file", "ppo --output_dir f", ("f: f is a file", "--output_dir"), {"f": ""}),
    BadInput(
        "an output that is somebody's", "compare --output_dir o", ("o: holds", "--output_dir"), {"o/thesis.txt": ""}
    ),
    BadInput(
        "an output nobody may write to",
        "sft --output_dir /proc/self/run",
        ("--output_dir /proc/self/run:", "cannot be written to"),
    ),
    BadInput(
        "a link to nothing",
        "ppo --output_dir o",
        ("--output_dir o:", "link to nothing"),
        {"o": lambda path, _: path.symlink_to("nowhere")},
    ),
    BadInput("the root", "reward --output_dir /", ("--output_dir '/': no name of a directory",)),
    BadInput("a name that is too long", ["sft", "--output_dir", "a" * 300], ("File name too long", "name another")),
    # what reads finished runs
    BadInput(
        "predict: half a letter",
        ["predict", "caf\udce9?", "--model_name_or_path", "{sft}"],
        ("predict: the question", "is not UTF-8"),
    ),
    BadInput(
        "predict: no policy",
        "predict Is-it? --model_name_or_path ./m",
        ("--model_name_or_path ./m: no such directory",),
    ),
    BadInput(
        "predict: no file", ["predict", "--file", "a\0b", "--model_name_or_path", "{sft}"], ("--file a", "null byte")
    ),
    BadInput("report: no run", "report nowhere", ("nowhere: no finished run, results.json",)),
    BadInput(
        "report: torn",
        "report r",
        ("r: no finished run, results.json is missing or damaged",),
        {"r/results.json": '{"method": "pp', "r/config.yaml": "{}"},
    ),
    BadInput("report: nothing in it", "report r", ("r: results.json is damaged", "make the run anew"), RUN),
    BadInput("report: deep", "report r", ("r: no finished run, results.json",), {**RUN, "r/results.json": "[" * 10**5}),
    BadInput(
        "report: another version",
        "report r",
        ("r/config.yaml: unknown option 'foo'",),
        {"r/manifest.json": "{}", "r/config.yaml": "foo: 1"},
    ),
    BadInput(
        "report: a damaged audit",
        "report r",
        ("r/audit.json: damaged; audit the grader again",),
        {"r/audit.json": "[]"},
    ),
    BadInput("push: no run", "push nowhere --repo_id me/x --dry_run", ("nowhere: no such directory", "finished run")),
    BadInput(
        "push: no repository",
        "push {sft} --repo_id a,b/c --dry_run",
        ("--repo_id a,b/c: no repository id", "USER/NAME"),
    ),
    BadInput(
        "push: without weights", "push r --repo_id me/x --dry_run", ("r: holds no config.json", "train it again"), RUN
    ),
    BadInput("demo: no run", "demo nowhere", ("--runs nowhere: no such directory", "finished run")),
    BadInput("demo: a port that is none", "demo {sft} --server_port 99999", ("--server_port 99999: 1 to 65535",)),
    BadInput("demo: nothing in it", "demo r", ("--runs r:", "train it anew"), RUN),
]
