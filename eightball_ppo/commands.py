"""Every command by its name: which options it takes and what it runs. The scripts and `eightball NAME` are these."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from eightball_ppo import cli


class Command(NamedTuple):
    """A config class and a function that takes one, as "module:name" within the package; and what it is for."""

    config: str
    stage: str
    purpose: str

    @property
    def config_class(self) -> type[Any]:
        module, _, name = self.config.partition(":")
        return getattr(importlib.import_module(f"eightball_ppo.{module}"), name)


COMMANDS = {
    "sft": Command("configs:SFTConfig", "methods.sft:train", "fine-tune the reference on random answers"),
    "reward": Command("configs:RewardConfig", "methods.reward_model:train", "fine-tune a BERT as grader"),
    "grade": Command("configs:GradeConfig", "methods.grade:run", "fill the grade store, export grades.parquet"),
    "audit": Command("configs:AuditConfig", "methods.audit:run", "judge a grader before it is believed"),
    "distill": Command("configs:DistillConfig", "methods.distill:train", "distil the grader: hard, soft, Boltzmann"),
    "ppo": Command("configs:PPOConfig", "methods.ppo:train", "TRL's PPO on the grader's scores"),
    "rloo": Command("configs:RLOOConfig", "methods.rloo:train", "TRL's RLOO on the grader's scores"),
    "grpo": Command("configs:GRPOConfig", "methods.grpo:train", "TRL's GRPO on the grader's scores"),
    "best_of_n": Command("configs:BestOfNConfig", "methods.best_of_n:train", "the best of n answers, without training"),
    "exact": Command("configs:ExactConfig", "methods.exact:train", "the objective's exact gradient, the ceiling"),
    "compare": Command("compare_options:CompareConfig", "comparison.compare:run", "all of these on the same grades"),
    "predict": Command("configs:PredictConfig", "methods.predict:run", "ask a trained policy"),
}


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command with `argv`, by default the process's; see `cli.main` for the exit codes."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if name == "predict" and arguments and not arguments[0].startswith("-"):
        arguments = ["--question", *arguments]
    command = COMMANDS[name]
    cli.main(command.config_class, f"eightball_ppo.{command.stage}", arguments)


def main() -> None:
    """`eightball NAME [options]`."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        run(arguments[0], arguments[1:])
        return
    asked = arguments in (["-h"], ["--help"])
    lines = ["usage: eightball COMMAND [options]; eightball COMMAND --help", ""]
    lines += [f"  {name:<10} {command.purpose}" for name, command in COMMANDS.items()]
    if asked:
        print("\n".join(lines))
        return
    given = f"unknown command {arguments[0]!r}" if arguments else "which command?"
    print(f"eightball: {given}; one of {', '.join(COMMANDS)}", file=sys.stderr)
    sys.exit(2)
