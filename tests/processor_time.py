"""Prints the 15 tests that took most processor time, children that have ended included.

What tests share (`shared`) is made by the first that asks and stands in a line of its own.
"""

import os
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

SHOWN = 15
_seconds: defaultdict[str, float] = defaultdict(float)
_shared_in_this_test: list[tuple[str, float]] = []  # name, seconds


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def shared(name: str) -> Iterator[None]:
    """What runs inside is counted for itself, not for the test that asked for it."""
    began, inside_before = _processor_seconds(), sum(seconds for _, seconds in _shared_in_this_test)
    yield
    inside = sum(seconds for _, seconds in _shared_in_this_test) - inside_before
    _shared_in_this_test.append((f"(shared) {name}", _processor_seconds() - began - inside))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.user_properties.append(("began", _processor_seconds()))
    _shared_in_this_test.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "teardown":
        all_seconds = _processor_seconds() - float(str(dict(item.user_properties)["began"]))
        alone = all_seconds - sum(seconds for _, seconds in _shared_in_this_test)
        item.user_properties.extend([(item.nodeid, alone), *_shared_in_this_test])
        report.user_properties = item.user_properties  # a copy was made before
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        for name, seconds in report.user_properties:
            if name == report.nodeid or name.startswith("(shared)"):
                _seconds[name] += float(str(seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    slowest = sorted(_seconds.items(), key=lambda entry: -entry[1])[:SHOWN]
    terminalreporter.section(f"slowest {len(slowest)} of {len(_seconds)} tests, processor seconds with fixtures")
    for name, seconds in slowest:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(_seconds.values()):7.1f}  all tests")
