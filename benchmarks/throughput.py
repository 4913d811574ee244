"""Episodes per second of our loop and of other loops, on the same task, networks and start weights.

python benchmarks/throughput.py
python benchmarks/throughput.py --before COMMIT --rounds 9      # or a checkout: ours after and before a change

One process per peer, one thread each; the peers alternate round by round, so that other work on the machine affects all
of them equally. A round is a run of enough updates to fill `--seconds-per-round`, after a first update that does not
count; the results list the work that a run does once, such as freezing objects for the garbage collector, as its start.
The result is the ratio of episodes per processor second within a round, of the first of `--peers` (ours by default) to
every other peer.

`--before` compares our loop with that of another version, with that version's package and benchmarks. Both run the same
updates in a round and alternate many times a second: with two copies of one version on a busy machine, consecutive runs
differed by 12 to 14 % (standard deviation over rounds), alternating ones by 2 %. A change is not a slowdown if the 95 %
interval of the mean ratio, after to before, contains 1 or lies above 0.97; check the width of the interval, too.
"""

import argparse
import json
import math
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from machine import machine
from peers.registry import PEERS, missing
from trees import tree_of
from workers import Worker, in_turns

RESULTS = Path(__file__).parent / "results" / "throughput.json"
RESULTS_BEFORE = RESULTS.with_name("throughput-before.json")
BATCHES = [64, 512, 4096]
BETA = 0.1
OURS, BEFORE = "ours", "before"
SLOWDOWN = 0.97  # an interval of after / before above it is no slowdown
THRESHOLDS = {
    "naive_trl": {64: 25.0, 512: 40.0},
    "sb3": {64: 1.2, 512: 1.4, 4096: 3.0},
    "torchrl": {64: 1.3, 512: 1.5, 4096: 3.0},
    "bare": {64: 0.9, 512: 1.2, 4096: 3.0},
    "bare_tricks": {64: 0.55, 512: 0.65, 4096: 0.5},
}
LEFT_OUT = {("naive_trl", 4096): "more than a minute an update"}  # combinations that are not measured, with the reason


def one_run(worker: Worker, batch: int, updates: int, seed: int = 0) -> dict[str, Any]:
    """A peer's measurement of `updates` updates after its first one."""
    total = (updates + 1) * batch
    return worker.ask(learn=False, task=0, batch=batch, beta=BETA, total_episodes=total, seed=seed)


def updates_a_round(worker: Worker, batch: int, seconds: float) -> int:
    """Warms up and returns how many updates take `seconds` of processor time; the first of two runs imports."""
    one_run(worker, batch, 1)
    updates = 1
    while True:
        took = one_run(worker, batch, updates)["processor"]
        if took > seconds / 4 or updates >= 4096:
            return max(1, round(updates * seconds / took))
        updates *= max(2, min(8, round(seconds / 3 / took)))


def measure(workers: dict[str, Worker], batch: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """`rounds` rounds of every peer at this batch."""
    workers = {name: worker for name, worker in workers.items() if (name, batch) not in LEFT_OUT}
    updates = {name: updates_a_round(worker, batch, seconds) for name, worker in workers.items()}
    measured = []
    for number in range(rounds):
        row: dict[str, Any] = {"batch": batch, "round": number, "load": os.getloadavg(), "peers": {}}
        for name, worker in workers.items():
            row["peers"][name] = one_run(worker, batch, updates[name], seed=number)
        measured.append(row)
        print(f"batch {batch}, round {number + 1}: " + ", ".join(
            f"{name} {run['episodes'] / run['processor']:.0f}/s" for name, run in row["peers"].items()
        ), file=sys.stderr, flush=True)  # fmt: skip
    return measured


def measure_before(after: Worker, before: Worker, batch: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """`rounds` rounds of two versions at this batch; they alternate which one begins."""
    updates, _ = (updates_a_round(worker, batch, seconds) for worker in (after, before))
    settings = {"batch": batch, "beta": BETA, "total_episodes": (updates + 1) * batch}
    measured = []
    for number in range(rounds):
        pair = [(OURS, after), (BEFORE, before)]
        names, workers = zip(*(pair if number % 2 == 0 else reversed(pair)), strict=True)
        results = in_turns(workers, learn=False, task=0, seed=number, **settings)
        found = dict(zip(names, results, strict=True))
        peers = {OURS: found[OURS], BEFORE: found[BEFORE]}
        measured.append({"batch": batch, "round": number, "load": os.getloadavg(), "peers": peers})
        ratio = ratios(measured[-1:], BEFORE, "processor")[0]
        print(f"batch {batch}, round {number + 1}: {ratio:.3f}", file=sys.stderr, flush=True)
    return measured


def spread(numbers: list[float]) -> dict[str, float]:
    return {"min": min(numbers), "median": median(numbers), "max": max(numbers)}


def ratios(rows: list[dict[str, Any]], name: str, clock: str) -> list[float]:
    """The ratio of episodes per second of the first peer to those of `name`, round by round."""
    found = []
    for peers in (row["peers"] for row in rows):
        first, other = (peers[peer]["episodes"] / peers[peer][clock] for peer in (next(iter(peers)), name))
        found.append(first / other)
    return found


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % interval of the geometric mean of two ratios or more: Student's t of their logarithms."""
    from scipy.stats import t

    logs = [math.log(ratio) for ratio in ratios]
    half = float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)


def verdict(batch: int, ratios: list[float]) -> str:
    """The verdict on the ratios, after to before, of a batch."""
    low, high = interval(ratios)
    if low <= 1 <= high:
        finding = "contains 1"
    elif low > SLOWDOWN:
        finding = f"lies above {SLOWDOWN}"
    else:
        finding = f"SLOWER: neither contains 1 nor lies above {SLOWDOWN}"
    return f"B={batch}: after / before {median(ratios):.3f} (median), 95 % interval {low:.3f} to {high:.3f}: {finding}"


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per peer and batch."""
    found = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        here = [row for row in rows if row["batch"] == batch]
        for name in here[0]["peers"]:
            measured = [row["peers"][name] for row in here]
            found.append(
                {
                    "peer": name,
                    "batch": batch,
                    "episodes_per_processor_second": spread([run["episodes"] / run["processor"] for run in measured]),
                    "episodes_per_wall_second": spread([run["episodes"] / run["wall"] for run in measured]),
                    "start_processor_seconds": spread([run["start"]["processor"] for run in measured]),
                    "first_over_it": {clock: spread(ratios(here, name, clock)) for clock in ("processor", "wall")},
                    "threshold": THRESHOLDS.get(name, {}).get(batch) if next(iter(here[0]["peers"])) == OURS else None,
                }
            )
    return found


def table(records: list[dict[str, Any]]) -> str:
    """The ratios as Markdown: median (lowest to highest), and the target of the median."""
    batches = list(dict.fromkeys(run["batch"] for run in records))
    first, *others = dict.fromkeys(run["peer"] for run in records)
    by_cell = {(run["peer"], run["batch"]): run for run in records}
    lines = [
        f"| {PEERS[first].title} / | {' | '.join(f'B={batch}' for batch in batches)} |",
        f"|---|{'---|' * len(batches)}",
    ]
    for name in others:
        cells = [_cell(by_cell.get((name, batch))) for batch in batches]
        lines.append(f"| {PEERS[name].title} | {' | '.join(cells)} |")
    speeds = [by_cell[first, batch]["episodes_per_processor_second"]["median"] for batch in batches]
    lines.append(
        f"| ({PEERS[first].title}, episodes per processor second) | {' | '.join(f'{n:,.0f}' for n in speeds)} |"
    )
    return "\n".join(lines)


def _cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    ratio, threshold = record["first_over_it"]["processor"], record["threshold"]
    text = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
    return text if threshold is None else f"{text}; {'>=' if ratio['median'] >= threshold else 'NOT'} {threshold:g}"


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line, with those that follow from `--before`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    which.add_argument("--before", metavar="COMMIT", help="a commit, or the directory of a checkout")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds-per-round", type=float, default=3.0)
    parser.add_argument("--output", type=Path, help=f"by default results/{RESULTS.name} or {RESULTS_BEFORE.name}")
    options = parser.parse_args(argv)
    options.output = options.output or (RESULTS if options.before is None else RESULTS_BEFORE)
    if options.before is not None and options.rounds < 2:
        parser.error("--before: an interval needs two rounds at least")
    return options


def compare_peers(options: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints all peers; returns the records to write."""
    skipped = {name: reason for name in options.peers if (reason := missing(name)) is not None}
    for name, reason in skipped.items():
        print(f"{PEERS[name].title}: skipped, {reason}", flush=True)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name)) for name in options.peers if name not in skipped}
        for batch in options.batches:
            rows += measure(workers, batch, options.rounds, options.seconds_per_round)
    records = summary(rows)
    for (name, batch), reason in LEFT_OUT.items():
        if name in workers and batch in options.batches:
            print(f"{PEERS[name].title} at {batch}: left out, {reason}")
    print(table(records))
    return {"skipped": skipped, "summary": records, "rounds": rows}


def compare_before(options: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints two versions; returns the records to write."""
    rows: list[dict[str, Any]] = []
    with tree_of(options.before) as tree, Worker(OURS) as after, Worker(OURS, tree) as before:
        for batch in options.batches:
            measured = measure_before(after, before, batch, options.rounds, options.seconds_per_round)
            print(verdict(batch, ratios(measured, BEFORE, "processor")), flush=True)
            rows += measured
    return {"before": options.before, "summary": summary(rows), "rounds": rows}


def main() -> None:
    options = options_of()
    found = compare_peers(options) if options.before is None else compare_before(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    content = {**machine(), "load": os.getloadavg(), **found}
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
