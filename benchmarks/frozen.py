"""PPO on a frozen MiniLM: its speed against the small classifier and MiniLM's LoRA adapters, and its memory.

OMP_NUM_THREADS=1 python benchmarks/frozen.py                 # episodes per processor second, three in one run
OMP_NUM_THREADS=1 python benchmarks/frozen.py --task wide     # 10,000 texts and 1,000 labels: seconds and memory

The speed is that of training alone: references, grades and features are there before. The three take turns, each with
its default options, or those of `recipes/minilm_lora.yaml`; LoRA trains fewer episodes. Trains runs/reward if it is
missing. The wide task is `eightball ppo --config frozen_minilm` from nothing, in a process of its own.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tune import Lab

from eightball_ppo.runtime.logging import silence_libraries

LORA = {"use_peft": True, "per_device_train_batch_size": 600, "num_ppo_epochs": 2, "cliprange": 0.2}
MODELS = {"small": "small", "frozen": "frozen", "lora": "encoder"}
EPISODES = {"small": 48_000, "frozen": 48_000, "lora": 1_200}
TEXTS, LABELS, PER_LABEL = 10_000, 1_000, 2
MAIN = "from eightball_ppo.cli.commands import main; main()"
WORDS = ("order", "parcel", "refund", "invoice", "password", "account", "card", "address", "size", "colour", "delivery")


def speeds(rounds: int) -> None:
    """Prints the episodes per processor second of each student, and the ratios to the other two."""
    found: dict[str, list[float]] = {student: [] for student in EPISODES}
    with tempfile.TemporaryDirectory() as directory:
        labs = {student: Lab(MODELS[student], f"{directory}/{student}") for student in EPISODES}
        tasks = {student: lab.task(0) for student, lab in labs.items()}
        for _ in range(rounds):
            for student, episodes in EPISODES.items():
                more: dict[str, Any] = LORA if student == "lora" else {}
                _, _, seconds = labs[student].train(tasks[student], "ppo", total_episodes=episodes, **more)
                found[student].append(episodes / seconds)
    print(f"| what trains | episodes per processor s, median of {rounds} | lowest | highest | frozen's over it |")
    print("|---|--:|--:|--:|--:|")
    for student, rates in found.items():
        ratio = median(mine / other for mine, other in zip(found["frozen"], rates, strict=True))
        print(f"| {student} | {median(rates):.0f} | {min(rates):.0f} | {max(rates):.0f} | {ratio:.2f} |")


def wide() -> None:
    """Prints the seconds and the peak memory of PPO on a wide task."""
    draw = random.Random(0)

    def row(number: int, label: int | None) -> str:
        text = f"{' '.join(draw.sample(WORDS, 6))} number {number}"
        return json.dumps({"question": text} | ({} if label is None else {"answer": f"intent {label}"}))

    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        data.mkdir()
        labelled = [row(number, number % LABELS) for number in range(PER_LABEL * LABELS)]
        (data / "sft.jsonl").write_text("\n".join(labelled) + "\n")
        (data / "rl.jsonl").write_text("\n".join(row(TEXTS + number, None) for number in range(TEXTS)) + "\n")
        (data / "heldout.jsonl").write_text("\n".join(row(3 * TEXTS + n, n % LABELS) for n in range(LABELS)) + "\n")
        command = [sys.executable, "-c", MAIN, "ppo", "--config", "frozen_minilm"]
        command += ["--dataset_name", str(data), "--grader", "rule:intent 7", "--disable_tqdm"]
        started = time.monotonic()
        subprocess.run([*command, "--total_episodes", "48000"], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{TEXTS:,} texts, {LABELS:,} labels, 48,000 episodes: {seconds:.0f} s, {peak:.2f} GiB at the peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("speed", "wide"), default="speed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    if options.task == "speed":
        speeds(options.rounds)
    else:
        wide()


if __name__ == "__main__":
    main()
