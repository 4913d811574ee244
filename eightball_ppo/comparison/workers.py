"""Makes the runs of a grid in parallel processes: finished runs are reused, failed ones are reported with a reason."""

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from eightball_ppo.comparison.grid import RUNS, RunGroup, RunSpec, run_config
from eightball_ppo.comparison.workspace import check_same_config, log_file
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.runtime.logging import silence_libraries
from eightball_ppo.runtime.redaction import redact
from eightball_ppo.runtime.run import read_results

FailedRuns = dict[RunSpec, str]
"""Runs that failed, each with the reason in one line."""


def finished(spec: RunSpec, config: CompareConfig) -> bool:
    """Whether the run exists, complete and made with the options that it would be made with now.

    Raises:
        InputError: its directory holds no finished run, or one that was made with other options.
    """
    directory = Path(config.output_dir) / RUNS / spec.name
    if not directory.exists():
        return False
    try:
        method = read_results(directory)["method"]
        check_same_config(directory, run_config(spec, config))
        if method != spec.method:
            raise InputError(f"{directory}: is a run of method {method}")
    except InputError as error:
        raise InputError(f"{error}; remove it to run it again") from None
    return True


def run_grid(groups: list[RunGroup], config: CompareConfig) -> FailedRuns:
    """Makes every run that is missing; returns those that failed."""
    failed: FailedRuns = {}
    waiting = [group for group in groups if not _nothing_to_do(group, config, failed)]
    # a Mac has no sched_getaffinity
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = config.num_workers or num_cores
    with tqdm(total=len(waiting), desc="runs", disable=config.disable_tqdm or not waiting) as bar:
        while waiting:
            outcome = _run_pool(waiting, config, min(num_workers, len(waiting)), bar)
            dead = [group for group in waiting if group not in outcome]
            # A process that dies breaks its pool, and the runs of the others with it. Those that had begun are tried
            # alone, which shows whose fault it was.
            for group in [group for group in dead if log_file(config, group[0]).exists()] or dead:
                outcome |= _run_pool([group], config, 1, bar)
                if group not in outcome:
                    why = f"its process died twice (out of memory?); see {log_file(config, group[0])}"
                    outcome[group] = dict.fromkeys(group, why)
            for reasons in outcome.values():
                failed.update(reasons)
            waiting = [group for group in waiting if group not in outcome]
    return failed


def _nothing_to_do(group: RunGroup, config: CompareConfig, failed: FailedRuns) -> bool:
    """Whether each run of a group is finished, or all of them cannot be made; adds the latter to `failed`."""
    done = True
    for spec in group:
        try:
            done = finished(spec, config) and done
        except InputError as error:
            failed[spec] = str(error)
    return done or all(spec in failed for spec in group)


def _run_pool(groups: list[RunGroup], config: CompareConfig, num_workers: int, bar: tqdm) -> dict[RunGroup, FailedRuns]:
    """The failed runs of every group that came to an end; a group is absent if the pool broke before that."""
    for group in groups:
        log_file(config, group[0]).unlink(missing_ok=True)
    outcome: dict[RunGroup, FailedRuns] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_init_worker, initargs=(os.getpid(),)) as pool:
        with _without_main_module():
            futures: dict[Future[FailedRuns], RunGroup] = {pool.submit(run_group, g, config): g for g in groups}
        try:
            for future in as_completed(futures):
                with contextlib.suppress(BrokenProcessPool):
                    outcome[futures[future]] = future.result()
                    bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return outcome


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Hides the main module from processes that start: they need nothing of it, and would run a script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _init_worker(parent: int) -> None:
    """Limits a worker to one thread, and ends it as soon as its parent is gone."""
    import torch

    silence_libraries()
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_group(group: RunGroup, config: CompareConfig) -> FailedRuns:
    """Makes the runs of a group in this process, with stdout and stderr in its log; returns those that failed."""
    log = log_file(config, group[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    failed: FailedRuns = {}
    with log.open("a", encoding="utf-8") as file, _redirected_output(file.fileno()):
        for position, spec in enumerate(group):
            if why := _run_one(spec, group[0] if position else None, config, log):
                failed[spec] = why
    return failed


@contextlib.contextmanager
def _redirected_output(target: int) -> Iterator[None]:
    """Redirects the file descriptors themselves, so that what libraries in C print goes along."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        for number in (1, 2):
            os.dup2(target, number)
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _run_one(spec: RunSpec, trained: RunSpec | None, config: CompareConfig, log: Path) -> str | None:
    """Makes a run, by training or from the policy of the run `trained`; returns why it failed, or None."""
    from eightball_ppo.methods.reevaluate import reevaluate
    from eightball_ppo.methods.run_method import run_method

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if finished(spec, config):
            return None
        if trained is None:
            run_method(run_config(spec, config))
        elif finished(trained, config):
            reevaluate(run_config(spec, config), Path(config.output_dir) / RUNS / trained.name)
        else:
            return f"{trained.name} failed, and this run is the same policy at another beta"
    except (InputError, IncompleteError) as error:
        return redact(str(error))
    except Exception as error:
        traceback.print_exc()
        first_line = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        return redact(f"{first_line[:200]}; see {log}")
    return None
