"""The commands, `eightball NAME` and the scripts: which options each takes and what it runs."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from eightball_ppo import __version__
from eightball_ppo.cli.parser import build_parser
from eightball_ppo.cli.parser import main as run_command
from eightball_ppo.config.registry import commands, load


class Command(NamedTuple):
    """A command.

    Attributes:
        config: The dataclass of its options, as "module:name".
        stage: The function that takes them, as "module:name".
        purpose: What it is for, in one line.
        examples: What may follow its name.
        first: The option of arguments that come first and have no flag.
    """

    config: str
    stage: str
    purpose: str
    examples: tuple[str, ...]
    first: str | None = None

    @property
    def config_class(self) -> type[Any]:
        """The dataclass of its options."""
        return load(self.config)

    def arguments(self, argv: Sequence[str]) -> list[str]:
        """`argv` with the flag `first` in front of arguments that come first and have no flag."""
        return [f"--{self.first}", *argv] if self.first and argv and not argv[0].startswith("-") else list(argv)


COMMANDS = {
    "sft": Command(
        "eightball_ppo.config.stages:SFTConfig",
        "eightball_ppo.methods.sft:train",
        "fine-tune a classifier on labelled texts: the reference",
        ("", "--tokenizer whitespace --output_dir runs/sft-whitespace"),
    ),
    "reward": Command(
        "eightball_ppo.config.stages:RewardConfig",
        "eightball_ppo.methods.reward_model:train",
        "fine-tune a BERT on labelled texts, as a grader",
        ("", "--use_peft --learning_rate 2e-3 --output_dir runs/reward-lora"),
    ),
    "grade": Command(
        "eightball_ppo.config.stages:GradeConfig",
        "eightball_ppo.graders.export:run",
        "fill the grade store, export grades.parquet",
        ("", "--grader api --grader_model NAME --grader_base_url http://127.0.0.1:8000/v1 --dry_run"),
    ),
    "audit": Command(
        "eightball_ppo.config.stages:AuditConfig",
        "eightball_ppo.auditing.run:run",
        "test a grader before training on it",
        ("--grader bert", "--grader bert --gold_file gold.jsonl"),
    ),
    **{
        name: Command(
            spec.config, "eightball_ppo.methods.run_method:run_method", spec.description.replace("`", ""), spec.examples
        )
        for name, spec in commands().items()
    },
    "compare": Command(
        "eightball_ppo.config.compare:CompareConfig",
        "eightball_ppo.comparison.compare:run",
        "all of these on the same grades",
        ("", "--methods distill ppo exact --seeds 0 1 2 3 4 --output_dir runs/compare-5"),
    ),
    "predict": Command(
        "eightball_ppo.config.stages:PredictConfig",
        "eightball_ppo.predict:run",
        "ask a trained policy",
        (
            '"Will I be rich?"',
            "--file tickets.csv --output answers.csv",
            "--file questions.txt --model_name_or_path runs/sft --sample",
        ),
        first="question",
    ),
    "report": Command(
        "eightball_ppo.config.tools:ReportConfig",
        "eightball_ppo.comparison.report.rewrite:run",
        "tables of runs; the page of a comparison or an audit again",
        ("runs/ppo runs/distill", "runs/compare"),
        first="run_dirs",
    ),
    "push": Command(
        "eightball_ppo.config.tools:PushConfig",
        "eightball_ppo.hub.push:run",
        "upload a finished run to the Hugging Face Hub",
        ("runs/ppo --repo_id ME/eight-ball --dry_run", "runs/distill runs/ppo --repo_id ME/ask-the-ball --space"),
        first="run_dirs",
    ),
    "demo": Command(
        "eightball_ppo.config.tools:DemoConfig",
        "eightball_ppo.demo.app:run",
        "ask trained policies in the browser",
        ("", "runs/distill runs/ppo --server_port 7861"),
        first="runs",
    ),
    "env": Command(
        "eightball_ppo.config.tools:EnvConfig",
        "eightball_ppo.cli.env:run",
        "versions and machine, for a bug report",
        ("",),
    ),
}
SHELLS = ("bash", "zsh", "tcsh")
DIRECTORY_SUFFIXES = ("dir", "dirs", "path", "runs", "comparison", "dataset_name")  # of options
FILE_OPTIONS = ("config", "file", "output", "gold_file", "grade_table", "grade_store")


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Runs a command with `argv`, by default the process's; see `parser.main` for the exit codes."""
    command = COMMANDS[name]
    arguments = command.arguments(sys.argv[1:] if argv is None else argv)
    examples = "\n".join(f"  eightball {name} {example}".rstrip() for example in command.examples)
    usage = f"eightball {name} {command.first.upper() + ' ' if command.first else ''}[options]"
    run_command(command.config_class, command.stage, arguments, usage, f"examples:\n{examples}")


def main() -> None:
    """The command line `eightball NAME [options]`."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        run(arguments[0], arguments[1:])
    elif arguments in (["-h"], ["--help"]):
        print(overview())
    elif arguments == ["--version"]:
        print(f"eightball-ppo {__version__}")
    elif arguments in (["completion", "-h"], ["completion", "--help"]):
        print(f"usage: eightball completion SHELL; prints the completion script of {', '.join(SHELLS)}")
    elif len(arguments) == 2 and arguments[0] == "completion" and arguments[1] in SHELLS:
        print(completion(arguments[1]))
    else:
        known = f"pass one of {', '.join([*COMMANDS, 'completion'])}"
        problem = f"unknown command {arguments[0]!r}; {known}" if arguments else f"no command was given; {known}"
        if arguments and arguments[0] == "completion":
            problem = f"completion: names no known shell; pass one of {', '.join(SHELLS)}"
        print(f"eightball: {problem}", file=sys.stderr)
        sys.exit(2)


def overview() -> str:
    """What `eightball --help` prints."""
    lines = ["usage: eightball COMMAND [options]; eightball COMMAND --help", ""]
    lines += [f"  {name:<10} {command.purpose}" for name, command in COMMANDS.items()]
    lines += [f"  completion the completion script of a shell: {', '.join(SHELLS)}", "", "examples:"]
    for name in ("ppo", "predict", "compare", "demo"):
        lines.append(f"  eightball {name} {COMMANDS[name].examples[0]}".rstrip())
    return "\n".join([*lines, '  eval "$(eightball completion bash)"'])


def completion(shell: str) -> str:
    """The script that lets `shell` complete commands, options, choices and paths."""
    import argparse

    import shtab

    parser = argparse.ArgumentParser("eightball")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        options = build_parser(command.config_class)
        for action in options._actions:
            if not action.choices and action.dest.endswith(DIRECTORY_SUFFIXES):
                action.complete = shtab.DIRECTORY
            elif action.dest in FILE_OPTIONS:
                action.complete = shtab.FILE
        commands.add_parser(name, parents=[options], add_help=False, help=command.purpose)
    commands.add_parser("completion", help="print a completion script").add_argument("shell", choices=SHELLS)
    return shtab.complete(parser, shell)
