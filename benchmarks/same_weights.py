"""Compares the weights that two versions of the code train, bit by bit. Exits with 1 if those of a stage differ.

python benchmarks/same_weights.py                                  # the previous commit against the working tree
python benchmarks/same_weights.py --before-tree DIR --stages ppo rloo --seeds 0 1

Every stage is a separate process on one thread, with shortened settings of several updates. The policies start from the
SFT and the reward model of the same version. `ppo-resumed` is the PPO of `ppo`, stopped by SIGTERM and resumed: its
weights must also equal those of `ppo`. The hash covers names, types, shapes and bytes of all tensors and nothing
else in the file.

The script uses only what both versions share: the command `eightball`, its flags, and the files of a run. An RLOO
training once differed from its repetition in the last digits (docs/LOG.md): check with `--stages` whether a difference
repeats.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from safetensors import deserialize
from trees import REPOSITORY, environment_of, tree_of

BEFORE = "41139ce"
FIRST = {"sft": ["sft", "--num_train_epochs", "3"], "reward": ["reward", "--num_train_epochs", "1"]}
PPO = ["ppo", "--total_episodes", "9600"]  # 8 updates of 32 optimizer steps
DISTILL = ["distill", "--num_train_epochs", "4"]
POLICIES = {
    "ppo": PPO,
    "ppo-resumed": PPO,
    "rloo": ["rloo", "--total_episodes", "9600"],
    "grpo": ["grpo", "--total_episodes", "9600"],
    "distill-hard": [*DISTILL, "--target", "hard"],
    "distill-soft": [*DISTILL, "--target", "soft"],
    "distill-boltzmann": [*DISTILL, "--target", "boltzmann"],
    "exact": ["exact", "--num_train_epochs", "40"],
}
STOPPED_AFTER = 3  # updates, or a few more until the signal arrives
TERMINATED = 128 + signal.SIGTERM
SPLITS = ("train", "heldout")
# the package of the version must run, not the installed one
START = (
    "import sys, {module} as module; assert module.__file__.startswith({tree!r}), module.__file__; "
    "sys.exit(module.{function}())"
)


def weights_hash(file: Path) -> str:
    """The first 16 digits of the sha256 of a safetensors file's tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(deserialize(file.read_bytes()), key=lambda item: item[0]):
        digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        digest.update(tensor["data"])
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Trained:
    """The result of a stage: the hash of its weights, and the share of the optimum by split if it is a policy."""

    weights: str
    optimum: dict[str, float]

    @classmethod
    def of(cls, run: Path) -> "Trained":
        splits = json.loads((run / "results.json").read_text(encoding="utf-8"))["splits"]
        shares = {name: splits.get(name, {}).get("optimum_fraction") for name in SPLITS}
        known = {name: share for name, share in shares.items() if share is not None}
        return cls(weights_hash(run / "model.safetensors"), known)


class Version:
    """One version of the code and its directory for one seed."""

    def __init__(self, tree: Path, seed: int, directory: Path):
        self.tree, self.seed, self.directory = tree, seed, directory
        project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        module, _, function = project["scripts"]["eightball"].partition(":")
        start = START.format(module=module, function=function, tree=f"{tree}{os.sep}")
        self.program = [sys.executable, "-P", "-c", start]
        directory.mkdir(parents=True)
        (directory / "datasets").symlink_to(tree / "datasets")

    def train(self, stage: str) -> Trained:
        """Runs a stage on the results of the previous stages in this directory."""
        run = self.directory / "runs" / stage
        command = [*(FIRST | POLICIES)[stage], "--seed", str(self.seed), "--output_dir", f"runs/{stage}"]
        if stage in POLICIES:
            command.append("--allow_weak_grader")  # a reward model of one pass may be weak
        if stage == "ppo-resumed":
            job = self._begin(command)
            self._stop(job, run.with_name(f"{stage}.unfinished") / "metrics.jsonl")
            self._ended(job, TERMINATED, stage)
            command += ["--resume_from_checkpoint", "true"]
        self._ended(self._begin(command), 0, stage)
        return Trained.of(run)

    def _begin(self, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**environment_of(self.tree), "HF_HUB_OFFLINE": "1"}
        with (self.directory / "said.txt").open("wb") as said:
            program = [*self.program, *command, "--disable_tqdm"]
            return subprocess.Popen(program, cwd=self.directory, env=environment, stdout=said, stderr=said)

    def _stop(self, job: subprocess.Popen[bytes], metrics: Path) -> None:
        """Send SIGTERM to a training once its metrics have some rows."""
        while job.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= STOPPED_AFTER):
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)

    def _ended(self, job: subprocess.Popen[bytes], code: int, stage: str) -> None:
        """Waits for a process; any exit code other than `code` ends the comparison."""
        try:
            job.wait()
        finally:
            job.kill()  # stops the process if the comparison was interrupted
        if job.returncode != code:
            said = (self.directory / "said.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
            sys.exit(f"{stage} of {self.tree}: exit {job.returncode}, not {code}\n{said}")


def differences(stage: str, before: Trained, after: Trained, straight: Trained | None) -> list[str]:
    """The differences of a stage, line by line; empty if all is equal. `straight`: the PPO without a stop."""
    found = []
    if before.weights != after.weights:
        found.append(f"{stage}: the weights differ")
        for split in before.optimum | after.optimum:
            shares = (result.optimum.get(split) for result in (before, after))
            values = " before, ".join("none" if share is None else f"{share:.6f}" for share in shares)
            found.append(f"  optimum_fraction, {split}: {values} after")
    if straight is not None and straight.weights != after.weights:
        found.append(f"{stage}: not the weights of the run that was not stopped")
    return found


def compare(stages: Iterable[str], before: Version, after: Version) -> list[str]:
    """Trains the stages in both versions, prints a row for each, and returns the differences."""
    found, straight = [], None
    for stage in stages:
        one, other = before.train(stage), after.train(stage)
        lines = differences(stage, one, other, straight if stage == "ppo-resumed" else None)
        straight = other if stage == "ppo" else straight
        verdict = "DIFFERENT" if lines else "equal"
        print(f"| {stage} | {after.seed} | {one.weights} | {other.weights} | {verdict} |", flush=True)
        found += lines
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    old = parser.add_mutually_exclusive_group()
    old.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"by default {BEFORE}")
    old.add_argument("--before-tree", type=Path, metavar="DIR", help="a checkout that is there already")
    parser.add_argument("--after-tree", type=Path, metavar="DIR", default=REPOSITORY, help="by default this repository")
    parser.add_argument("--stages", nargs="+", choices=[*FIRST, *POLICIES], default=[*FIRST, *POLICIES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    wanted = set(options.stages) | (set(FIRST) if set(options.stages) & set(POLICIES) else set())
    stages = [stage for stage in FIRST | POLICIES if stage in wanted]
    found = []
    print("| stage | seed | before | after | equal |\n|---|--:|---|---|---|", flush=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same-weights-")))
        trees = {
            "before": stack.enter_context(tree_of(options.before_tree or options.before)),
            "after": options.after_tree.resolve(),
        }
        for seed in options.seeds:
            before, after = (Version(tree, seed, directory / name / str(seed)) for name, tree in trees.items())
            found += compare(stages, before, after)
    print("\n".join(found or ["all weights are equal"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
