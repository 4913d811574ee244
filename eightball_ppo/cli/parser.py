"""From argv to a stage: flags and YAML by `trl.TrlParser`, errors as one line and exit code 2."""

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.recipes import read_recipe
from eightball_ppo.config.registry import load
from eightball_ppo.config.trl_unsupported import TRL_OPTIONS
from eightball_ppo.errors import DryRun, IncompleteError, InputError, TrainingDivergedError, TrainingInterrupted
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.distributed import destroy_process_group, is_main_process, num_processes
from eightball_ppo.runtime.launch import check_launch, init_process_group, peer_failure
from eightball_ppo.runtime.logging import configure_logging, silence_libraries
from eightball_ppo.runtime.redaction import redact
from eightball_ppo.runtime.run import check_output_dir
from eightball_ppo.runtime.system_errors import as_user_error

C = TypeVar("C")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every option, examples as they were written."""


def build_parser(config_class: type[Any], usage: str | None = None, epilog: str | None = None) -> Any:
    """TRL's parser of the flags of `config_class`; `usage` and `epilog` go around its `--help`."""
    from trl import TrlParser

    class Parser(TrlParser):
        def add_argument(self, *names: Any, affects_results: bool = True, **about: Any) -> Any:
            return super().add_argument(*names, **about)  # argparse takes all of a field's metadata for its own

        def error(self, message: str) -> NoReturn:
            raise InputError(f"{message}; see --help")

    description = inspect.cleandoc(config_class.__doc__ or "")
    around = {"description": description, "usage": usage, "epilog": epilog, "formatter_class": _HelpFormatter}
    parser = Parser([config_class], allow_abbrev=False, **around)  # compare's --kl_coefs is no longer --kl_coef
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="Options from a file; flags beat them.", default=argparse.SUPPRESS
    )
    return parser


def parse(config_class: type[C], argv: Sequence[str], usage: str | None = None, epilog: str | None = None) -> C:
    """`config_class` filled from `argv`; `--config FILE.yaml` gives defaults that flags beat.

    Raises:
        InputError: an unknown or refused option, a value of the wrong type, or an unreadable YAML file.
    """
    arguments = [part for argument in argv for part in _split_at_equals(argument)]
    if config_class is PPOConfig:
        arguments = _without_trl_options(arguments)
    parser = build_parser(config_class, usage, epilog)
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 >= len(arguments):
            raise InputError("--config: names no file")
        parser.set_defaults_with_config(**read_recipe(Path(arguments[position + 1]), config_class))
        arguments = arguments[:position] + arguments[position + 2 :]
    config, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    if unknown:
        raise InputError(f"unknown option {' '.join(unknown)}; see --help")
    return config


def _split_at_equals(argument: str) -> list[str]:
    name, equals, value = argument.partition("=")
    return [name, value] if equals and name.startswith("--") else [argument]


def _refuse_trl_option(name: str, value: str | None, where: str) -> None:
    standing, why = TRL_OPTIONS[name]
    if value is None or standing is None or value.lower() not in (standing.lower(), standing.removesuffix(".0")):
        only = "" if standing is None else f" (only {standing})"
        raise InputError(f"{where} {value if value is not None else ''}".rstrip() + f": refused{only}: {why}")


def _without_trl_options(arguments: list[str]) -> list[str]:
    """Drop `TRL_OPTIONS` that are given their one standing value; refuse the others by name."""
    kept: list[str] = []
    i = 0
    while i < len(arguments):
        name = arguments[i].removeprefix("--")
        if arguments[i].startswith("--") and name in TRL_OPTIONS:
            follows = i + 1 < len(arguments) and not arguments[i + 1].startswith("--")
            _refuse_trl_option(name, arguments[i + 1] if follows else None, arguments[i])
            i += 2
        else:
            kept.append(arguments[i])
            i += 1
    return kept


def main(
    config_class: type[Any],
    stage: str,
    argv: Sequence[str] | None = None,
    usage: str | None = None,
    epilog: str | None = None,
) -> None:
    """Run a script: parse, call `stage` ("module:function") with the config, push what it made if that was asked for.

    Exits with 2 on an InputError; with 3 on an IncompleteError, a full or failing disk or a lost peer; with 4 on a
    TrainingDivergedError; with 128 + n on signal n.

    The stage's module is imported only after the flags are parsed, so `--help` answers at once.
    """
    configure_logging()
    try:
        with signals.install_handlers():
            _run(config_class, stage, sys.argv[1:] if argv is None else argv, usage, epilog)
    except DryRun as estimate:
        if is_main_process():
            print(estimate)
    except KeyboardInterrupt as error:
        if is_main_process():
            _print_error("interrupted; grades that were made are kept")
        sys.exit(128 + (error.number if isinstance(error, signals.Interrupted) else signal.SIGINT))
    except (InputError, IncompleteError, TrainingDivergedError, TrainingInterrupted) as error:
        if not error.relayed:
            _print_error(str(error))
        destroy_process_group()
        sys.exit(_exit_code(error))
    except Exception as error:  # of this process alone: it says so, and the others are not waited for
        told = peer_failure(error) or as_user_error(error)
        if told is None:
            raise
        _print_error(str(told))
        sys.exit(_exit_code(told))
    destroy_process_group()


def _run(config_class: type[Any], stage: str, argv: Sequence[str], usage: str | None, epilog: str | None) -> None:
    """Parse, check, do the stage's work, push it."""
    check_launch()
    config = parse(config_class, argv, usage, epilog)
    pushed = isinstance(config, RunConfig) and config.push_to_hub
    if isinstance(config, RunConfig):
        check_output_dir(config)  # before the heavy imports
    if pushed:
        from eightball_ppo.hub import push  # heavy

        push.check_stage(config)
    if isinstance(config, RunConfig):
        init_process_group(config.ddp_timeout)
    run: Callable[[Any], Any] = load(stage)
    silence_libraries()
    run(config)
    if pushed:
        push.push_stage(config)


def _print_error(text: str) -> None:
    """One line on stderr, whatever the names and values in it hold; with the rank of any but the main process."""
    rank = "" if is_main_process() else f"rank {os.environ['RANK']} of {num_processes()}: "
    print(redact(f"{Path(sys.argv[0]).name}: {rank}{' '.join(text.splitlines())}"), file=sys.stderr)


def _exit_code(error: Exception) -> int:
    if isinstance(error, TrainingInterrupted):
        return 128 + error.signal_number
    return 2 if isinstance(error, InputError) else 4 if isinstance(error, TrainingDivergedError) else 3
