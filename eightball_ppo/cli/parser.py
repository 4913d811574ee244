"""From argv to a stage: flags and YAML by `trl.TrlParser`, errors as one line and an exit code."""

import argparse
import difflib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.fields import ANY, Rule
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.model import LoraOptions
from eightball_ppo.config.recipes import read_recipe
from eightball_ppo.config.registry import METHODS, load
from eightball_ppo.config.trl_unsupported import TRL_OPTIONS
from eightball_ppo.errors import DryRun, IncompleteError, InputError, TrainingDivergedError, TrainingInterrupted
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.distributed import destroy_process_group, is_main_process, num_processes
from eightball_ppo.runtime.launch import check_launch, init_process_group, peer_failure
from eightball_ppo.runtime.logging import configure_logging, silence_libraries
from eightball_ppo.runtime.redaction import printable, redact
from eightball_ppo.runtime.system_errors import as_user_error

C = TypeVar("C")
GROUPS: dict[str, type[Any]] = {  # of options in `--help`
    "data": DataConfig,
    "grader": GraderConfig,
    "LoRA": LoraOptions,
    "run directory, launch and Hub": RunConfig,
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the default of every option that has one, one spelling of it, and examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        without = action.default in (None, [], "") or any(name.startswith("--no_") for name in action.option_strings)
        return action.help if without else super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = action.option_strings
        action.option_strings = [name for name in spellings if "-" not in name.lstrip("-")]
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = spellings


def build_parser(config_class: type[Any], usage: str | None = None, epilog: str | None = None) -> Any:
    """Returns TRL's parser of the flags of `config_class`; `usage` and `epilog` are for its `--help`."""
    from trl import TrlParser

    class Parser(TrlParser):
        # argparse gets all of a field's metadata
        def add_argument(self, *names: Any, affects_results: bool = True, rule: Rule = ANY, **settings: Any) -> Any:
            if names[0].startswith("--no_"):  # HfArgumentParser gives it the help text of the option it turns off
                settings["help"] = f"Turn --{names[0].removeprefix('--no_')} off."
            return super().add_argument(*names, **settings)

        def error(self, message: str) -> NoReturn:
            raise InputError(f"{message}; see --help")

    texts = {"description": inspect.cleandoc(config_class.__doc__ or ""), "usage": usage, "epilog": epilog}
    # without abbreviations, compare's --kl_coefs is not also --kl_coef
    parser = Parser([config_class], allow_abbrev=False, formatter_class=_HelpFormatter, **texts)
    help_text = "Options from a file, or from a recipe of the package by its name; flags override them."
    parser.add_argument("--config", metavar="FILE.yaml", help=help_text, default=argparse.SUPPRESS)
    _group_options(parser, config_class)
    return parser


def _group_options(parser: argparse.ArgumentParser, config_class: type[Any]) -> None:
    """Shows the options of a shared config class as a group of its own in `--help`."""
    for title, shared in GROUPS.items():
        if not issubclass(config_class, shared):
            continue
        inherited = {name for base in shared.__mro__[1:] for name in getattr(base, "__annotations__", {})}
        names = {name for name in shared.__annotations__ if name not in inherited | vars(config_class).keys()}
        group = parser.add_argument_group(title)
        for action in [action for action in parser._optionals._group_actions if action.dest in names]:
            parser._optionals._group_actions.remove(action)
            group._group_actions.append(action)


def parse(config_class: type[C], argv: Sequence[str], usage: str | None = None, epilog: str | None = None) -> C:
    """Fills `config_class` from `argv`; flags override the options in `--config FILE.yaml`.

    Raises:
        InputError: An unknown or refused option, a value of the wrong type, or an unreadable YAML file.
    """
    arguments = [part for argument in argv for part in _split_at_equals(argument)]
    if config_class is PPOConfig:
        arguments = _without_trl_options(arguments)
    parser = build_parser(config_class, usage, epilog)
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 >= len(arguments):
            raise InputError("--config: names no file")
        parser.set_defaults_with_config(**read_recipe(arguments[position + 1], config_class))
        arguments = arguments[:position] + arguments[position + 2 :]
    config, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    if unknown:
        raise InputError(_unknown(unknown, config))
    return config


def _unknown(arguments: list[str], config: Any) -> str:
    """The message about arguments that no option takes."""
    first, options = arguments[0], [name for name in vars(config) if not name.startswith("_")]
    if not first.startswith("-"):
        return f"unexpected argument {first!r}; put a text with blanks into quotes"
    near = difflib.get_close_matches(first.lstrip("-"), options, n=1)
    hint = _method_option(config, arguments) or (f"did you mean --{near[0]}?" if near else "see --help")
    return f"unknown option {' '.join(arguments)}; {hint}"


def _method_option(config: Any, arguments: list[str]) -> str | None:
    """How to pass to `compare` an option that methods have."""
    if not isinstance(config, CompareConfig):
        return None
    option, value = arguments[0].removeprefix("--"), (arguments[1:2] or ["true"])[0]
    preferred = sorted(METHODS.items(), key=lambda item: item[0] != "ppo")
    owners = [name for name, spec in preferred if option in {field.name for field in fields(spec.config_class)}]
    value = "true" if value.startswith("--") else value
    return f"pass --method_options {owners[0]}.{option}={value}" if owners else None


def _split_at_equals(argument: str) -> list[str]:
    name, equals, value = argument.partition("=")
    return [name, value] if equals and name.startswith("--") else [argument]


def _without_trl_options(arguments: list[str]) -> list[str]:
    """Drops `TRL_OPTIONS` that have their accepted value; refuses the others."""
    kept: list[str] = []
    remaining = list(arguments)
    while remaining:
        flag = remaining.pop(0)
        if not flag.startswith("--") or flag.removeprefix("--") not in TRL_OPTIONS:
            kept.append(flag)
            continue
        value = remaining.pop(0) if remaining and not remaining[0].startswith("--") else ""
        accepted, reason = TRL_OPTIONS[flag.removeprefix("--")]
        if accepted is None or value.lower() not in (accepted.lower(), accepted.removesuffix(".0")):
            only = "" if accepted is None else f" (only {accepted})"
            raise InputError(f"{flag} {value}".rstrip() + f": refused{only}: {reason}")
    return kept


def main(
    config_class: type[Any],
    stage: str,
    argv: Sequence[str] | None = None,
    usage: str | None = None,
    epilog: str | None = None,
) -> None:
    """Runs a command: parses the flags, calls the stage, and pushes its run if `--push_to_hub` is set.

    Exits with 2 on an InputError; with 3 on an IncompleteError, a full or failing disk or a lost peer; with 4 on a
    TrainingDivergedError; with 128 + n on signal n.

    Args:
        config_class: The dataclass of the options.
        stage: The function that takes them, as "module:function"; imported only after the flags are parsed, so that
            `--help` is fast.
        argv: The arguments; by default those of the process.
        usage: The usage line of `--help`.
        epilog: The end of `--help`.
    """
    configure_logging()
    try:
        with signals.install_handlers():
            check_launch()
            config = parse(config_class, sys.argv[1:] if argv is None else argv, usage, epilog)
            pushes = isinstance(config, RunConfig) and config.push_to_hub
            if pushes:
                from eightball_ppo.hub import push  # slow to import

                push.check_stage(config)
            if isinstance(config, RunConfig):
                init_process_group(config.ddp_timeout)
            run: Callable[[Any], Any] = load(stage)
            silence_libraries()
            run(config)
            if pushes:
                push.push_stage(config)
    except DryRun as estimate:
        if is_main_process():
            print(estimate)
    except KeyboardInterrupt as error:
        if is_main_process():
            _print_error("interrupted; finished grades and runs are kept")
        sys.exit(128 + (error.number if isinstance(error, signals.Interrupted) else signal.SIGINT))
    except (InputError, IncompleteError, TrainingDivergedError, TrainingInterrupted) as error:
        if not error.relayed:
            _print_error(str(error))
        destroy_process_group()
        sys.exit(_exit_code(error))
    except Exception as error:  # of this process alone: the others are not waited for
        user_error = peer_failure(error) or as_user_error(error)
        if user_error is None:
            raise
        _print_error(str(user_error))
        sys.exit(_exit_code(user_error))
    destroy_process_group()


def _print_error(text: str) -> None:
    """Prints one line on stderr, without secrets; with the rank of any process but the main one."""
    rank = "" if is_main_process() else f"rank {os.environ['RANK']} of {num_processes()}: "
    line = redact(f"{Path(sys.argv[0]).name}: {rank}{' '.join(text.splitlines())}")
    print(printable(line), file=sys.stderr)


def _exit_code(error: Exception) -> int:
    if isinstance(error, TrainingInterrupted):
        return 128 + error.signal_number
    return 2 if isinstance(error, InputError) else 4 if isinstance(error, TrainingDivergedError) else 3
