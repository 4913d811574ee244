"""Prints the 15 tests that took most processor time, children that have ended included."""

import os
from collections import defaultdict
from collections.abc import Generator

import pytest

SHOWN = 15
_seconds: defaultdict[str, float] = defaultdict(float)


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.user_properties.append(("began", _processor_seconds()))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "teardown":
        item.user_properties.append(("seconds", _processor_seconds() - float(str(dict(item.user_properties)["began"]))))
        report.user_properties = item.user_properties  # a copy was made before
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _seconds[report.nodeid] = float(str(dict(report.user_properties)["seconds"]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    slowest = sorted(_seconds.items(), key=lambda entry: -entry[1])[:SHOWN]
    terminalreporter.section(f"slowest {len(slowest)} of {len(_seconds)} tests, processor seconds with fixtures")
    for name, seconds in slowest:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(_seconds.values()):7.1f}  all tests")
