"""Episodes and processor seconds that a loop needs to 0.90 and 0.95 of the closed-form optimum.

python benchmarks/quality.py

Every seed is another task with other start weights, the same for all peers. All peers have the same settings, except
that the learning rate falls to 0 earlier with the exact baseline, which needs fewer episodes. The settings were chosen
for ours on tasks 10 to 19; the benchmark measures tasks 0 to 4. The share of the optimum is exact, over all questions
and labels, after every update; the seconds exclude its measurement.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine
from peers.registry import PEERS, missing
from workers import Worker

RESULTS = Path(__file__).parent / "results" / "quality.json"
BATCH = 800  # every question four times
LEVELS = (0.90, 0.95)
SHARED: dict[str, Any] = {  # of all peers, at both values of beta
    "batch": BATCH,
    "minibatches": 8,
    "epochs": 6,
    "learning_rate": 0.012,
    "value_learning_rate": 0.012,
    "cliprange": 0.1,
    "adam_beta2": 0.95,
    "vf_coef": 0.1,
}
EPISODES = {0.1: 13_000, 0.5: 18_000}
EPISODES_EXACT = {0.1: 8_000, 0.5: 14_000}
DEFAULT_PEERS = ("ours", "ours_exact", "sb3", "torchrl", "bare")


def budget(name: str, beta: float) -> int:
    """The limit of episodes of a peer, in complete updates."""
    most = (EPISODES_EXACT if name == "ours_exact" else EPISODES)[beta]
    return most - most % BATCH


def reached(curve: list[dict[str, Any]], level: float) -> dict[str, Any] | None:
    """The first point of a curve at or above `level`."""
    return next((point for point in curve if point["fraction"] >= level), None)


def measure(name: str, betas: list[float], seeds: int) -> list[dict[str, Any]]:
    """One record per run of one peer, in a separate process."""
    records = []
    with Worker(name) as worker:
        for beta in betas:
            settings = {**SHARED, "beta": beta, "total_episodes": budget(name, beta)}
            for seed in range(seeds):
                answer = worker.ask(learn=True, task=seed, seed=seed, **settings)
                record = {"peer": name, "beta": beta, "seed": seed, "settings": settings, "load": os.getloadavg()}
                records.append({**record, "last": answer["curve"][-1]["fraction"], **answer})
                print(f"{name}, beta {beta}, seed {seed}: {record_line(records[-1])}", file=sys.stderr, flush=True)
    return records


def record_line(record: dict[str, Any]) -> str:
    points = {level: reached(record["curve"], level) for level in LEVELS}
    parts = [f"{level:.2f} after {point['episodes']}" for level, point in points.items() if point is not None]
    return ", ".join([*parts, f"ends at {record['last']:.3f}"])


def table(records: list[dict[str, Any]]) -> str:
    """Per peer and beta, Markdown: episodes and processor seconds to each level, median and highest of the seeds that
    reached it, and how many did."""
    lines = [
        "| peer | beta | episodes allowed | "
        + " | ".join(f"to {level:.2f}: seeds, episodes, processor s" for level in LEVELS)
        + " | at the end |",
        f"|---|---|---|{'---|' * len(LEVELS)}---|",
    ]
    for name, beta in dict.fromkeys((record["peer"], record["beta"]) for record in records):
        here = [record for record in records if (record["peer"], record["beta"]) == (name, beta)]
        cells = [_cell(here, level) for level in LEVELS]
        last = [record["last"] for record in here]
        lines.append(
            f"| {PEERS[name].title} | {beta} | {budget(name, beta):,} | {' | '.join(cells)} "
            f"| {median(last):.3f} ({min(last):.3f} to {max(last):.3f}) |"
        )
    return "\n".join(lines)


def _cell(records: list[dict[str, Any]], level: float) -> str:
    points = [point for record in records if (point := reached(record["curve"], level)) is not None]
    count = f"{len(points)} of {len(records)}"
    if not points:
        return count
    episodes, seconds = ([point[what] for point in points] for what in ("episodes", "processor"))
    return f"{count}, {median(episodes):,.0f} (at most {max(episodes):,}), {median(seconds):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(DEFAULT_PEERS))
    parser.add_argument("--betas", nargs="+", type=float, choices=EPISODES, default=list(EPISODES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    skipped = {name: reason for name in options.peers if (reason := missing(name)) is not None}
    for name, reason in skipped.items():
        print(f"{PEERS[name].title}: skipped, {reason}", flush=True)
    records = []
    for name in options.peers:
        if name not in skipped:
            records += measure(name, options.betas, options.seeds)
    print(table(records))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    content = {**machine(), "skipped": skipped, "runs": records}
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
