"""Time and memory of the main job by stage, without reused runs: SFT, reward model, grading, PPO, report.

python benchmarks/pipeline.py                             # 5 rounds, with the threads of the main job
OMP_NUM_THREADS=1 python benchmarks/pipeline.py           # for processor seconds on a shared machine

A round is `accelerate launch scripts/ppo.py` with no arguments, in an empty directory and separate processes. A clock
wraps the functions of the stages. The seconds of a stage exclude its inner stages, and lazy imports count as `import`.
`launcher` is `accelerate launch` before it starts the job, `rest` is time outside all stages. Memory is the peak of the
resident set (`ru_maxrss`, mapped files included) at the end of a stage. The table shows medians over the rounds; the
JSON file holds all rounds.

It also measures processes that only import the package or print a help text, and how many short questions a second the
trained reward model grades, in float32 and with its linear layers in int8 (dynamic quantisation).
"""

import argparse
import functools
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "pipeline.json"
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file", str(REPOSITORY / "accelerate_config.yaml"))
# (stage, module of eightball_ppo, its measured functions), in the order of the table
STAGES = (
    ("read data", "methods.run_method", "load_splits"),
    ("SFT", "methods.sft", "train"),
    ("reward model", "methods.reward_model", "train"),
    ("reward model: fit", "methods.reward_model", "train_classifier"),
    ("grading", "methods.task", "grade_job"),
    ("PPO", "methods.ppo", "PPOTraining"),
    ("PPO", "methods.ppo", "build_trainer"),
    ("PPO", "methods.ppo", "run_trainer"),
    ("evaluation", "methods.task", "Task.exact_metrics"),
    ("evaluation", "methods.run_method", "finish"),
    ("report", "methods.run_method", "save_policy"),
    ("report", "methods.run_method", "plots.plot_label_histogram"),
    ("report", "methods.run_method", "plots.plot_curves"),
    ("report", "methods.run_method", "write_card"),
    ("report", "methods.run_method", "tables.print_before_after"),
    ("report", "methods.run_method", "tables.print_results"),
)
COMMANDS = {
    "`import eightball_ppo`": ("-c", "import eightball_ppo"),
    "`eightball --help`": ("-c", "from eightball_ppo.cli.commands import main; main()", "--help"),
    "`eightball ppo --help`": ("-c", "from eightball_ppo.cli.commands import main; main()", "ppo", "--help"),
}
GRADED = 5  # times; the median counts


class Clock:
    """Processor and wall seconds by stage; time belongs to the innermost open stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self.open: list[str] = []
        self.since = (0.0, started())

    def charge(self) -> None:
        """Adds the time since the last call to the innermost open stage, or to `rest`."""
        now = (time.process_time(), time.monotonic())
        times = self.stages.setdefault(self.open[-1] if self.open else "rest", dict.fromkeys(("cpu", "wall"), 0.0))
        times["cpu"] += now[0] - self.since[0]
        times["wall"] += now[1] - self.since[1]
        times["peak"] = peak()
        self.since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.charge()
        self.open.append(name)
        try:
            yield
        finally:
            self.charge()
            self.open.pop()

    def wrap(self, stage: str, owner: Any, name: str) -> None:
        """Measures every call of `owner.name`."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return function(*args, **kwargs)

        setattr(owner, name, run)


def started() -> float:
    """The start of this process on the monotonic clock."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak() -> int:
    """The peak memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_main_job(record: Path) -> None:
    """Runs and measures the main job in this process and directory; writes the measurements to `record`."""
    clock = Clock()
    # every import that loads something calls this function, also imports of a lazy module
    clock.wrap("import", importlib._bootstrap, "_find_and_load")  # type: ignore[attr-defined]
    for stage, module, name in STAGES:
        *outer, last = name.split(".")
        owner = functools.reduce(getattr, outer, importlib.import_module(f"eightball_ppo.{module}"))
        clock.wrap(stage, owner, last)
    from eightball_ppo.cli.commands import run

    run("ppo", [])
    clock.charge()
    record.write_text(
        json.dumps({"stages": clock.stages, "threads": importlib.import_module("torch").get_num_threads()})
    )


def processor(command: list[str], **kwargs: Any) -> dict[str, float]:
    """Processor and wall seconds of a command and its child processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "wall": wall}


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}


def main_job(directory: Path) -> dict[str, Any]:
    """One round: the main job in the empty directory `directory`."""
    directory.mkdir()
    (directory / "datasets").symlink_to(REPOSITORY / "datasets")
    threads = os.environ.get("OMP_NUM_THREADS", "2")  # as many as `make run` has
    command = [sys.executable, *LAUNCH, "--num_cpu_threads_per_process", threads, __file__, "--main_job", "record.json"]
    total = processor(command, cwd=directory, env=environment())
    record = json.loads((directory / "record.json").read_text())
    inner = {kind: sum(times[kind] for times in record["stages"].values()) for kind in ("cpu", "wall")}
    record["stages"]["launcher"] = {kind: total[kind] - inner[kind] for kind in inner}
    results = {name: json.loads((directory / "runs" / name / "results.json").read_text()) for name in ("reward", "ppo")}
    learned = {
        "accuracy": results["reward"]["splits"]["heldout"]["accuracy"],
        "ece": results["reward"]["splits"]["heldout"]["ece"],
        "optimum_fraction": results["ppo"]["splits"]["train"]["optimum_fraction"],
    }
    return {**record, "total": total, "load": os.getloadavg()[0], "learned": learned}


def score(reward: Path, record: Path) -> None:
    """Measures the warm reward model in `reward` on twice the held-out questions, with tokenization, float32 and int8.

    Seconds, accuracy, agreement, and distance in nats.
    """
    import torch

    from eightball_ppo.config.stages import RewardConfig
    from eightball_ppo.data import load_split
    from eightball_ppo.graders.bert import BertGrader

    config = RewardConfig()
    heldout = load_split(config, "test", config.label_set())
    texts = list(heldout.texts) * 2
    grader = BertGrader.from_directory(str(reward))
    found: dict[str, Any] = {"questions": len(texts)}
    logp: dict[str, Any] = {}
    for kind in ("float32", "int8"):
        if kind == "int8":
            grader.model = torch.ao.quantization.quantize_dynamic(grader.model, {torch.nn.Linear}, torch.qint8)
        logp[kind] = grader.logp_BK(list(heldout.texts))
        rounds = []
        for _ in range(GRADED):
            began = time.process_time(), time.monotonic()
            grader.logp_BK(texts)
            rounds.append((time.process_time() - began[0], time.monotonic() - began[1]))
        right = logp[kind].argmax(-1) == torch.tensor(heldout.label_ids)
        cpu, wall = (median(column) for column in zip(*rounds, strict=True))
        found[kind] = {"cpu": cpu, "wall": wall, "accuracy": right.float().mean().item()}
    same = logp["float32"].argmax(-1) == logp["int8"].argmax(-1)
    apart = (logp["float32"] - logp["int8"]).abs()
    found |= {"agree": same.float().mean().item(), "apart": apart.mean().item(), "most_apart": apart.max().item()}
    found["threads"] = torch.get_num_threads()
    record.write_text(json.dumps(found))


def table(rounds: list[dict[str, Any]]) -> str:
    """The rounds' medians as Markdown."""
    order = ["launcher", "import", *dict.fromkeys(stage for stage, _, _ in STAGES), "rest"]
    lines = ["| stage | processor, s | wall, s | peak so far, MiB |", "|---|--:|--:|--:|"]
    for stage in order:
        times = {kind: median(r["stages"][stage].get(kind, 0.0) for r in rounds) for kind in ("cpu", "wall", "peak")}
        memory = f"{times['peak'] / 2**20:.0f}" if times["peak"] else ""
        lines.append(f"| {stage} | {times['cpu']:.2f} | {times['wall']:.2f} | {memory} |")
    total = {kind: median(r["total"][kind] for r in rounds) for kind in ("cpu", "wall")}
    most = median(max(times.get("peak", 0) for times in r["stages"].values()) for r in rounds)
    return "\n".join([*lines, f"| all | {total['cpu']:.1f} | {total['wall']:.1f} | {most / 2**20:.0f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--main_job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--score", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.main_job is not None:
        run_main_job(options.main_job)
        return
    if options.score is not None:
        score(*options.score)
        return
    rounds, small, graded = [], {name: [] for name in COMMANDS}, {}
    with tempfile.TemporaryDirectory() as name:
        for i in range(options.rounds):
            directory = Path(name) / str(i)
            rounds.append(main_job(directory))
            print(
                f"round {i}: {rounds[-1]['total']}, load {rounds[-1]['load']:.1f}, {rounds[-1]['learned']}", flush=True
            )
            for what, arguments in COMMANDS.items():
                small[what].append(processor([sys.executable, *arguments], env=environment()))
        command = [sys.executable, __file__, "--score", str(directory / "runs" / "reward"), "record.json"]
        processor(command, cwd=directory, env=environment())
        graded = json.loads((directory / "record.json").read_text())
    print(table(rounds))
    for what, times in small.items():
        print(
            f"{what}: processor {median(t['cpu'] for t in times):.2f} s, wall {median(t['wall'] for t in times):.2f} s"
        )
    for kind in ("float32", "int8"):
        result = graded[kind]
        each = {clock: graded["questions"] / result[clock] for clock in ("cpu", "wall")}
        speed = f"{each['cpu']:.0f} questions a processor second, {each['wall']:.0f} a second"
        print(f"reward model, {kind}, {graded['threads']} threads: {speed}, accuracy {result['accuracy']:.3f}")
    print("int8 and float32 agree on {agree:.3f}; nats apart {apart:.3f}, at most {most_apart:.2f}".format(**graded))
    record = {**machine(rounds[0]["threads"]), "rounds": rounds, "commands": small, "grading": graded}
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
