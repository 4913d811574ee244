"""Bad inputs to every command: the command line, the files it is given, and the words that its one line must hold.

In command lines `{data}`, `{sft}` and `{reward}` stand for a small data set and finished runs, and `{nines}` for a
number of 30 digits; other names are files of the case, in its working directory. A stage gets these three as its data
set and models, where its command line names no others.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

Content = bytes | str | Callable[[Path, dict[str, Path]], None]
"""What a file holds; or what makes it, given its path and the finished runs by name."""


class BadInput(NamedTuple):
    """`argv`: the command and its options. `message`: parts of the line on stderr, between bars."""

    argv: str | list[str]
    message: str
    files: Mapping[str, Content] = MappingProxyType({})
    labels: bool = True  # whether the labels are given, not inferred


ROW = '{"question": "Is it?", "answer": "Yes"}\n'


def copy_of(run: str, **changed: Callable[[bytes], bytes] | None) -> Content:
    """A finished run with other bytes in some files (dots in names are `_`), or without them (None)."""

    def make(directory: Path, runs: dict[str, Path]) -> None:
        directory.mkdir(parents=True)
        for file in filter(Path.is_file, runs[run].iterdir()):
            change = changed.get(file.name.replace(".", "_"), lambda content: content)
            if change is not None:
                (directory / file.name).write_bytes(change(file.read_bytes()))

    return make


def config_with(run: str, **options: object) -> dict[str, Content]:
    """A copy `m` of a finished run with other values in its config.json."""
    return {"m": copy_of(run, config_json=lambda content: json.dumps({**json.loads(content), **options}).encode())}


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, Content]:
    """A grade table `t.parquet` of the small data set, changed."""

    def make(file: Path, runs: dict[str, Path]) -> None:
        lines = [line for split in ("rl", "heldout") for line in (runs["data"] / f"{split}.jsonl").open()]
        questions = list(dict.fromkeys(json.loads(line)["question"] for line in lines))
        scores = {"Yes": -0.6931471805599453, "No": -1.3862943611198906, "Maybe": -1.3862943611198906}
        rows = [(question, label, score) for question in questions for label, score in scores.items()]
        frame = pd.DataFrame(rows, columns=["question", "label", "score"]).assign(status="ok", grader="mine")
        pq.write_table(pa.Table.from_pandas(change(frame), preserve_index=False), file)

    return {"t.parquet": make}


def infinite_score(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(score=frame["score"].where(frame.index > 0, float("inf")))


def rl(content: bytes | str, suffix: str = "jsonl") -> dict[str, Content]:
    """A data set `d` whose training questions are `content`, for the stages that learn from a grader."""
    return {f"d/rl.{suffix}": content, "d/heldout.jsonl": ROW * 5}


def recipe(content: str) -> dict[str, Content]:
    return {"c.yaml": content}


RUN: dict[str, Content] = {"r/config.yaml": "{}", "r/results.json": '{"method": "ppo", "splits": {}}'}
ANOTHER_RUN: dict[str, Content] = {"out/config.yaml": "{}", "out/results.json": "{}"}
SELF_BASED: dict[str, Content] = {"m/adapter_config.json": '{"base_model_name_or_path": "./m", "peft_type": "LORA"}'}
SELF_BASED |= {"m/adapter_model.safetensors": "x", "d/x": ""}
JUDGE = "--grader api --grader_model J --grader_base_url http://127.0.0.1:9/v1"
ON_D, ON_M, ON_T = "--dataset_name d", "--sft_model_path ./m", "--grade_table t.parquet"
ON_SAVED = f"{ON_D} --dataset_train_split train --dataset_test_split 0.2"

BAD_INPUTS = [
    # data
    BadInput("sft --dataset_name ./nowhere", "nowhere: no such dataset directory | --dataset_name"),
    BadInput(
        "sft --dataset_name nobody/nothing", "nobody/nothing: neither a directory here nor a readable Hub dataset"
    ),
    BadInput(f"ppo {ON_D}", "d/rl.jsonl: no rows | at least one question", rl("")),
    BadInput(f"distill {ON_D}", "d/rl.jsonl:2: not JSON", rl(ROW + "\0\0\n")),
    BadInput(f"rloo {ON_D}", "d/rl.jsonl:2: not UTF-8 | re-encode", rl(ROW.encode() + b"caf\xe9\n")),
    BadInput(f"grpo {ON_D}", "d/rl.jsonl:1: not UTF-8 | re-encode", rl(ROW.encode("utf-16"))),
    BadInput(f"exact {ON_D}", "d/rl.jsonl:2: not JSON", rl(f"{ROW}\ufeff{ROW}")),
    BadInput(f"ppo {ON_D}", "d/rl.jsonl:1: not JSON", rl('{"question": "' + "a " * 10**6)),
    BadInput(f"ppo {ON_D}", "d/rl.jsonl:1: no JSON that can be read", rl("[" * 10**5)),
    BadInput(f"ppo {ON_D}", "d/rl.jsonl:1: no JSON", rl(f'{{"question": {"9" * 5000}}}')),
    BadInput(f"ppo {ON_D}", "d/rl.jsonl:1: | 'question' | nan", rl('{"question": NaN}\n')),
    BadInput(
        f"ppo {ON_D}", "d/rl.jsonl:2: | 'question' | half a surrogate", rl(ROW + '{"question": "half \\ud83c?"}\n')
    ),
    BadInput(f"best_of_n {ON_D}", "d/rl.jsonl:1: | non-blank | ' '", rl('{"question": " "}\n')),
    BadInput(f"ppo {ON_D} --text_column q", "d/rl.jsonl:1: no column 'q' | question", rl(ROW)),
    BadInput(f"ppo {ON_D}", "d/rl.csv:1: | duplicate column 'question'", rl("question,question\nA?,B?\n", "csv")),
    BadInput(f"ppo {ON_D}", "d/rl.csv:2: not CSV | quote", rl('question\n"A?\n', "csv")),
    BadInput(f"ppo {ON_D}", "d/rl.csv:2: | names 1 columns, this row has 2", rl("question\nA?,B\n", "csv")),
    BadInput(f"ppo {ON_D}", "d/rl.parquet: not a Parquet file", rl("question", "parquet")),
    BadInput(f"ppo {ON_D}", "d/rl.jsonl: no such file | splits here", {"d/rl.jsonl/x": "", "d/heldout.jsonl": ROW}),
    BadInput(
        f"reward {ON_D}",
        "d/preferences.jsonl:2: unknown label 'Perhaps' | known: ['Yes', 'No', 'Maybe']",
        {"d/preferences.jsonl": ROW + ROW.replace("Yes", "Perhaps")},
    ),
    BadInput(f"sft {ON_D}", "d/sft.jsonl:1: unknown label 'yeah'", {"d/sft.jsonl": ROW.replace("Yes", "yeah")}),
    BadInput(
        f"ppo {ON_D}",
        "d/heldout.jsonl:1: unknown label 0.5 in column 'answer' | --skip_bad_rows",
        {"d/rl.jsonl": ROW, "d/heldout.jsonl": '{"question": "A?", "answer": 0.5}'},
    ),
    BadInput(
        f"ppo {ON_SAVED}", "d: not what datasets.save_to_disk", {"d/state.json": "[]", "d/dataset_info.json": "[]"}
    ),
    # one file
    BadInput(
        "ppo --dataset_name o.csv", "o.csv: no column holds texts | 'n' ('1') | --text_column", {"o.csv": "n\n1\n"}
    ),
    BadInput("ppo --dataset_name o.csv", "o.csv: no rows", {"o.csv": ""}),
    BadInput("ppo --dataset_name o.csv", "o.csv: 1 questions cannot be split", {"o.csv": "text\nIs it?\n"}),
    BadInput("ppo --dataset_name o.csv", "o.csv: 3 questions cannot be split", {"o.csv": "text\nA?\na?\nA\n"}),
    BadInput("ppo --dataset_name o", "nothing in this directory is a split", {"o/x.txt": ""}),
    BadInput(
        "ppo --dataset_name o.jsonl --grader rule:Yes --sft_model_path runs/sft",
        "o.jsonl: none of the columns | --labels",
        {"o.jsonl": '{"text": "Is it?"}\n'},
        labels=False,
    ),
    BadInput(
        "ppo --gold_file g.jsonl --dataset_name g.jsonl",
        "g.jsonl: 1 of 1 training questions are held-out questions | pass other questions",
        {"g.jsonl": ROW},
    ),
    BadInput("ppo --labels Yes", "--labels ['Yes']: at least 2 are needed"),
    BadInput("ppo --labels Yes No Yes", "'Yes' occurs twice"),
    BadInput(["ppo", "--labels", "Yes", ""], "labels: '' is not a name"),
    BadInput("ppo --labels No Yes Perhaps", "unknown label 'Maybe'"),
    # options
    BadInput("ppo --kl_coef nan", "--kl_coef nan: must be a finite number"),
    BadInput("ppo --vf_coef inf", "--vf_coef inf: must be a finite number"),
    BadInput("rloo --kl_coef -1", "--kl_coef -1.0: must not be negative | 0 switches"),
    BadInput("exact --kl_coef 1e300", "--kl_coef 1e+300: at most 1e+06"),
    BadInput("ppo --num_ppo_epochs {nines}", "--num_ppo_epochs 9999 | at most 1000000000"),
    BadInput("sft --num_train_epochs 1e300", "--num_train_epochs 1e+300: | at most 1000000000"),
    BadInput("grpo --epsilon little", "--epsilon | invalid float value: 'little' | --help"),
    BadInput("distill --temprature 2", "unknown option --temprature 2 | did you mean --grader_temperature?"),
    BadInput("distill --threshold 1.5", "--threshold 1.5: must be a probability"),
    BadInput("distill --threshold 1.0", "no question reaches it"),
    BadInput("sft --learning_rate 0", "--learning_rate 0.0"),
    BadInput("sft --max_length 2", "--max_length 2"),
    BadInput("reward --max_length 600", "BertForSequenceClassification reads at most 512 tokens"),
    BadInput("reward --validation_fraction 1", "--validation_fraction 1.0 | between 0 and 1"),
    BadInput("sft --lr_scheduler_type sideways", "invalid choice: 'sideways'"),
    BadInput("sft --weight_decay -1", "--weight_decay -1.0: must not be negative"),
    BadInput("ppo --report_to banana", "unknown tracker 'banana'"),
    BadInput("distill --report_to clearml", "clearml is not installed"),
    BadInput("compare --methods pppo", "--methods pppo: unknown | known: sft"),
    BadInput("grade --grader brt", "--grader brt: unknown grader | did you mean bert?"),
    BadInput(f"ppo --grader {'noisy:0.1:' * 2000}brt", "unknown grader"),
    BadInput("ppo --grader random-head:{nines}", "whole number below a billion"),
    BadInput("ppo --repeats_per_epoch 2 --num_mini_batches 121", "too few for 121 minibatches"),  # of 60 questions
    BadInput("ppo --repeats_per_epoch 2 --per_device_train_batch_size 121", "fill at most 120"),
    BadInput("ppo --per_device_train_batch_size 4", "at least 8"),
    BadInput("ppo --per_device_train_batch_size 64 --num_mini_batches 7", "7 does not divide the batch of 64"),
    BadInput(
        "ppo --per_device_train_batch_size 64 --num_mini_batches 16 --whiten_rewards", "minibatches of 4 episodes"
    ),
    # configurations
    BadInput("ppo --config ./nowhere.yaml", "nowhere.yaml: unreadable YAML | No such file"),
    BadInput("ppo --config c.yaml", "c.yaml: unreadable YAML | line 1", recipe("a: b: c")),
    BadInput("ppo --config c.yaml", "c.yaml: unreadable | tag", recipe("seed: !!python/object/apply:os.getpid []")),
    BadInput("sft --config c.yaml", "c.yaml: a YAML mapping of options is needed", recipe("- a")),
    BadInput("audit --config c.yaml", "c.yaml: unknown option 'goldd'", recipe("goldd: a")),
    BadInput(
        "ppo --config c.yaml", "c.yaml: unreadable YAML | 'seed' appears twice | line 2", recipe("seed: 1\nseed: 2")
    ),
    BadInput("ppo --config c.yaml", "c.yaml: unreadable YAML | month", recipe("output_dir: 2024-13-01")),
    BadInput("ppo --config c.yaml", "c.yaml: unreadable YAML | recursion", recipe("[" * 1000)),
    BadInput("ppo --config c.yaml", "c.yaml: env: a mapping | ['a']", recipe("env: [a]")),
    # models
    BadInput("ppo --sft_model_path ./m", "--sft_model_path ./m: no such directory"),
    BadInput("ppo --reward_model_path ./m", "--reward_model_path ./m: not a checkpoint, it holds no", {"m/x": ""}),
    BadInput(
        "ppo --sft_model_path nobody/nothing",
        "--sft_model_path nobody/nothing: no such directory here, and from the Hub: not a loadable checkpoint",
    ),
    BadInput("reward --model_name_or_path /nowhere", "--model_name_or_path /nowhere"),
    BadInput(
        f"ppo {ON_M}",
        "--sft_model_path ./m: not a loadable checkpoint",
        {"m": copy_of("sft", model_safetensors=lambda content: content[:1000])},
    ),
    BadInput(
        f"exact {ON_M}",
        "--sft_model_path ./m: config.json is damaged | nterminated",
        {"m": copy_of("sft", config_json=lambda content: content[:50])},
    ),
    BadInput(
        f"distill {ON_M}",
        "--sft_model_path ./m: not a loadable checkpoint",
        {"m": copy_of("sft", tokenizer_json=None, tokenizer_config_json=None)},
    ),
    BadInput(f"rloo {ON_M}", "--sft_model_path ./m: not a loadable", config_with("sft", embedding_size=8)),
    BadInput(
        f"grpo {ON_M}",
        "--sft_model_path ./m: labels: id2label has the ids [0, 1, 5]",
        config_with("sft", id2label={"0": "Yes", "1": "No", "5": "Maybe"}),
    ),
    BadInput(
        f"ppo {ON_M} --dataset_name ./d", "its adapters have themselves as their base model", SELF_BASED, labels=False
    ),
    BadInput(
        "audit --reward_model_path ./m",
        "labels differ | --reward_model_path ./m",
        config_with("reward", id2label={"0": "a", "1": "b", "2": "c"}),
    ),
    BadInput(
        "sft --tokenizer ./t",
        "--tokenizer ./t: no tokenizer there",
        {"t/tokenizer.json": "[]", "t/tokenizer_config.json": "{}"},
    ),
    # grades
    BadInput(f"ppo {ON_T}", f"{ON_T}: lacks 1 of | made from other data?", table(lambda frame: frame.iloc[3:])),
    BadInput(f"distill {ON_T}", f"{ON_T}: | 'Yes' | score inf", table(infinite_score)),
    BadInput(f"exact {ON_T}", f"{ON_T}: | occurs 2 times", table(lambda frame: pd.concat([frame.iloc[:1], frame]))),
    BadInput(
        f"compare {ON_T}",
        f"{ON_T}: has the labels | 'yes'",
        table(lambda frame: frame.assign(label=frame["label"].str.lower())),
    ),
    BadInput("grade --grade_store g", "--grade_store g: not a grade store", {"g": "x" * 5000}),
    BadInput("grade --grader api --grader_model J", "--grader_base_url"),
    BadInput(f"audit {JUDGE} --grader_prompt p.jinja", "--grader_prompt p.jinja", {"p.jinja": "{{ "}),
    BadInput(
        "audit --gold_file g.jsonl", "g.jsonl:2: unknown label 'YEAH'", {"g.jsonl": ROW + ROW.replace("Yes", "YEAH")}
    ),
    BadInput("audit --gold_file g.jsonl", "--gold_file g.jsonl: no such file"),
    BadInput("audit --gold_file g.txt", "g.txt: the name of a data file ends in one of", {"g.txt": ""}),
    BadInput("audit --grade_table t.parquet", "an audit asks the grader itself"),
    BadInput("audit --audit_questions 0", "--audit_questions 0: must be at least 1"),
    BadInput("audit --min_kappa -2", "--min_kappa -2.0: must be between -1 and 1"),
    BadInput("audit --min_accuracy 1.5", "--min_accuracy 1.5: must be a share, 0 to 1"),
    BadInput("audit --max_injection_flips -0.1", "--max_injection_flips -0.1: must be a share, 0 to 1"),
    # output directories
    BadInput("ppo --output_dir f", "f: f is a file | --output_dir", {"f": ""}),
    BadInput("compare --output_dir o", "o: holds | --output_dir", {"o/thesis.txt": ""}),
    BadInput("distill --output_dir out", "out: holds another run; pass --overwrite_output_dir", ANOTHER_RUN),
    BadInput("ppo --output_dir {sft} --overwrite_output_dir", "is the --sft_model_path, which would be replaced"),
    BadInput("sft --output_dir /proc/self/run", "--output_dir /proc/self/run: | cannot be written to"),
    BadInput(
        "ppo --output_dir o", "--output_dir o: | link to nothing", {"o": lambda path, _: path.symlink_to("nowhere")}
    ),
    BadInput("reward --output_dir /", "--output_dir '/': no name of a directory"),
    BadInput(f"sft --output_dir {'a' * 300}", "File name too long | name another"),
    # commands that read finished runs
    BadInput(["predict", "caf\udce9?", "--model_name_or_path", "{sft}"], "predict: the question | is not UTF-8"),
    BadInput(["predict", " ", "--model_name_or_path", "{sft}"], "the question is blank"),
    BadInput("predict Is-it? --model_name_or_path ./m", "--model_name_or_path ./m: no such directory"),
    BadInput("predict --model_name_or_path {sft}", "pass either one question"),
    BadInput("predict Is-it? --file b --model_name_or_path {sft}", "pass either one question"),
    BadInput(["predict", "--file", "a\0b", "--model_name_or_path", "{sft}"], "--file a | null byte"),
    BadInput("predict --file f --model_name_or_path {sft}", "--file f | No such file"),
    BadInput("predict --file f --model_name_or_path {sft}", "holds no question", {"f": "\n"}),
    BadInput("predict --file f --model_name_or_path {sft}", "not UTF-8 (byte 3)", {"f": b"caf\xe9?\n"}),
    BadInput("predict --file f.csv --model_name_or_path {sft}", "f.csv: any of", {"f.csv": "a,b\nx,y\n"}),
    BadInput("predict --file f.csv --model_name_or_path {sft}", "--file f.csv: no such file"),
    BadInput("predict Is-it? --output a.txt --model_name_or_path {sft}", "--output a.txt: its name must end in"),
    BadInput("predict Is-it? --output no/a.csv --model_name_or_path {sft}", "--output no/a.csv: no such directory"),
    BadInput(
        "predict --file f.csv --output o.csv --model_name_or_path {sft}",
        "f.csv: has a column 'prediction' | rename it",
        {"f.csv": "text,prediction\nIs it?,Yes\n"},
    ),
    BadInput("report nowhere", "nowhere: no finished run, results.json"),
    BadInput("report r", "r: no finished run, results.json is missing or", {**RUN, "r/results.json": '{"method": "pp'}),
    BadInput("report r", "r: results.json is damaged", RUN),
    BadInput("report r", "r: no finished run, results.json", {**RUN, "r/results.json": "[" * 10**5}),
    BadInput("report r", "r/config.yaml: unknown option 'foo'", {"r/manifest.json": "{}", "r/config.yaml": "foo: 1"}),
    BadInput("report r", "r/audit.json: damaged; audit the grader again", {"r/audit.json": "[]"}),
    BadInput("push nowhere --repo_id me/x --dry_run", "nowhere: no such directory | finished run"),
    BadInput("push {sft} --repo_id a,b/c --dry_run", "--repo_id a,b/c: no repository id | USER/NAME"),
    BadInput("push r --repo_id me/x --dry_run", "r: holds no config.json | train it again", RUN),
    BadInput("demo nowhere", "--runs nowhere: no such directory | finished run"),
    BadInput("demo {sft} --server_port 99999", "--server_port 99999: must be 1 to 65535"),
    BadInput("demo r", "--runs r: | train it", RUN),
]
