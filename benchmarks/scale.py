"""Time and memory of the complete pipeline, from questions to an evaluated policy, by number of questions.

OMP_NUM_THREADS=1 python benchmarks/scale.py                                   # 1e3 to 1e6, the rule grader
OMP_NUM_THREADS=1 python benchmarks/scale.py --grader random-head --sizes 1000 10000

Every size is a separate process that runs `methods.run_method`, the function behind `scripts/ppo.py`: it reads
synthetic questions, grades them into a new store, tokenizes them, runs two PPO updates, and evaluates both splits. Nine
of ten questions are for training, one is held out. Memory is the peak of the resident set (`ru_maxrss`, mapped files
included); bytes a question are the difference from the same run with 300 questions.
"""

import argparse
import functools
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eightball_ppo.labels import EIGHTBALL_LABELS as LABELS
from eightball_ppo.methods.run_method import run_method

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
BASE = 300  # questions
BATCH, UPDATES = 256, 2
WHO = ("my sister", "the new neighbour", "our old team", "a friend from school", "the whole family", "nobody at work")
WHAT = (
    "win the lottery",
    "move to the coast",
    "find the lost keys",
    "learn to sail",
    "open a small bakery",
    "sleep well",
)
WHEN = ("this week", "before the winter", "on a Tuesday", "in ten years", "after the holidays", "at last")
# (stage, module of eightball_ppo, function): a clock wraps the function
STAGES = (
    ("read", "methods.run_method", "load_splits"),
    ("grade", "methods.task", "grade_job"),
    ("tokenize", "methods.task", "tokenize"),
    ("build", "methods.ppo", "build_trainer"),
    ("update", "methods.ppo", "run_trainer"),
    ("evaluate", "methods.run_method", "finish"),
)


def write_questions(directory: Path, count: int) -> Path:
    """A data set of `count` different questions of about 60 characters: 9/10 for training, 1/10 labelled."""
    directory.mkdir(parents=True)
    draw = random.Random(0)
    with (directory / "rl.jsonl").open("w") as train, (directory / "heldout.jsonl").open("w") as heldout:
        for i in range(count):
            text = f"Will {draw.choice(WHO)} {draw.choice(WHAT)} {draw.choice(WHEN)}, number {i}?"
            if i % 10:
                train.write(json.dumps({"question": text}) + "\n")
            else:
                heldout.write(json.dumps({"question": text, "answer": draw.choice(LABELS)}) + "\n")
    return directory


def resident() -> int:
    """The current memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The peak memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(data: Path, reference: Path, work: Path, grader: str) -> dict[str, Any]:
    """Runs the pipeline in this process: wall seconds and peak bytes, in total and by stage."""
    import importlib

    from eightball_ppo.config.methods import PPOConfig

    stages: dict[str, dict[str, float]] = {}

    def clocked(stage: str, function: Any) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            value = function(*args, **kwargs)
            row = stages.setdefault(stage, {"seconds": 0.0})
            row |= {"seconds": row["seconds"] + time.monotonic() - began, "resident": resident(), "peak": peak()}
            return value

        return run

    for stage, module, name in STAGES:
        wrapped = importlib.import_module(f"eightball_ppo.{module}")
        setattr(wrapped, name, clocked(stage, getattr(wrapped, name)))
    config = PPOConfig(
        output_dir=str(work / "ppo"),
        dataset_name=str(data),
        sft_model_path=str(reference),
        grader=grader,
        grade_store=str(work / "grades.sqlite3"),
        per_device_train_batch_size=BATCH,
        num_mini_batches=4,
        total_episodes=BATCH * UPDATES,
        disable_tqdm=True,
    )
    began = time.monotonic()
    run_method(config)
    seconds = time.monotonic() - began
    store = sum(file.stat().st_size for file in work.glob("grades.sqlite3*"))
    return {"seconds": seconds, "peak": peak(), "store": store, "stages": stages}


def in_own_process(count: int, directory: Path, grader: str) -> dict[str, Any]:
    """`measure` of `count` questions in a new process."""
    work = directory / f"{grader.replace(':', '-')}-{count}"
    write_questions(work / "data", count)
    command = [sys.executable, __file__, "--grader", grader, "--one", str(work), "--reference", str(directory / "sft")]
    with (work / "log.txt").open("w") as log:
        done = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=log, env=environment(), check=False)
    if done.returncode:
        sys.exit(f"{count} questions: exit {done.returncode}\n{(work / 'log.txt').read_text()[-3000:]}")
    return {"questions": count, **json.loads((work / "measured.json").read_text())}


def environment() -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": str(REPOSITORY)}


def train_reference(directory: Path) -> None:
    """The small classifier, fine-tuned on 200 synthetic questions."""
    data = write_questions(directory / "small", 400)
    heldout = (data / "heldout.jsonl").read_text()
    (data / "sft.jsonl").write_text(heldout)
    command = [sys.executable, str(REPOSITORY / "scripts" / "sft.py"), "--dataset_name", str(data), "--disable_tqdm"]
    command += ["--labels", *LABELS, "--output_dir", str(directory / "sft")]
    subprocess.run(command, cwd=REPOSITORY, env=environment(), check=True, stdout=subprocess.DEVNULL)


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements as Markdown; the first row is the base."""
    base, names = rows[0], [stage for stage, _, _ in STAGES]
    lines = [
        f"| questions | wall, s | peak, MiB | bytes a question | store, bytes a question | {' | '.join(names)} (s) |",
        f"|{' ---: |' * (5 + len(names))}",
    ]
    for row in rows:
        each = "" if row is base else f"{(row['peak'] - base['peak']) / (row['questions'] - base['questions']):.0f}"
        took = " | ".join(f"{row['stages'][name]['seconds']:.1f}" for name in names)
        lines.append(
            f"| {row['questions']:,} | {row['seconds']:.1f} | {row['peak'] / 2**20:.0f} | {each} "
            f"| {row['store'] / row['questions']:.0f} | {took} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--grader", default=f"rule:{LABELS[0]}", help="rule:LABEL, random-head (an untrained MiniLM)")
    parser.add_argument("--output", type=Path, help="JSON file; by default benchmarks/results/scale-GRADER.json")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        measured = measure(options.one / "data", options.reference, options.one, options.grader)
        (options.one / "measured.json").write_text(json.dumps(measured))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        train_reference(Path(name))
        for count in (BASE, *options.sizes):
            rows.append(in_own_process(count, Path(name), options.grader))
            print(f"{count} questions: {rows[-1]['seconds']:.1f} s, {rows[-1]['peak'] / 2**20:.0f} MiB", flush=True)
    print(table(rows))
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cpu_count": os.cpu_count()}
    file = options.output or RESULTS / f"scale-{options.grader.split(':')[0]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"grader": options.grader, **machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
