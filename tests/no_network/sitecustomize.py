"""No request leaves the machine: every Python process of a test session reads this at its start, as does the session.

An audit hook sees names that are resolved and addresses that are called, from Python and from C. What would leave the
machine is written, a line each, into the file that `EIGHTBALL_NETWORK_LOG` names, and stopped with an OSError: whoever
swallows that is counted all the same. What is not Python (a browser, uvloop, libraries with sockets of their own) makes
no audit events: uvloop is hidden, the browser gets `conftest.CHROMIUM`, the others are not seen.
"""

import errno
import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

LOG = "EIGHTBALL_NETWORK_LOG"
CALLS = ("socket.connect", "socket.sendto", "socket.sendmsg")  # (socket, address)
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")  # (host, ...)
HUB = ("huggingface.co", "hf.co")
hub_addresses: set[str] = set()


def is_hub_requested() -> bool:
    """The tests against the real Hub were requested, and there is a token for them."""
    return os.environ.get("EIGHTBALL_HUB_TESTS") == "1" and bool(os.environ.get("HF_TOKEN"))


def is_hub(host: str) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in HUB)


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells out, none if it is a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def is_here(host: str) -> bool:
    """Is this an address or a name of this machine? Only its addresses can be bound to."""
    address = address_of(host)
    if address is None:
        return host.lower().rstrip(".") in ("", "localhost", "localhost.localdomain", socket.gethostname().lower())
    if address.is_loopback or address.is_unspecified:
        return True
    if address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def stop(event: str, where: str) -> None:
    """Counts the attempt, with the test that was running, and ends it."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "between the tests").replace("\n", " ")
    line = f"{event} {where}  in {test}  by {' '.join(sys.orig_argv)[:200]!r}\n"
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(log, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(log)
    raise OSError(errno.ENETUNREACH, f"a test asks for {where}, which is not this machine ({event})")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook."""
    if not event.startswith("socket.") or LOG not in os.environ:
        return
    if event in CALLS:
        connecting, address = arguments
        internet = connecting.family in (socket.AF_INET, socket.AF_INET6)
        if internet and address and not is_here(str(address[0])) and address[0] not in hub_addresses:
            stop(event, f"{address[0]}:{address[1]}")
    elif event in LOOKUPS and arguments[0]:
        host = arguments[0].decode("ascii", "replace") if isinstance(arguments[0], bytes) else str(arguments[0])
        spelled_out = address_of(host) is not None and event != "socket.gethostbyaddr"
        if not (spelled_out or is_here(host) or (is_hub_requested() and is_hub(host))):
            stop(event, host)
    elif event == "socket.getnameinfo" and not is_here(str(arguments[0][0])):
        stop(event, str(arguments[0][0]))


def allow_hub_addresses() -> None:
    """What the Hub's names resolve to may be called."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        found = resolve(host, *arguments, **options)
        if isinstance(host, str) and is_hub(host):
            hub_addresses.update(str(address[0]) for *_, address in found)
        return found

    socket.getaddrinfo = getaddrinfo


def guard_children() -> None:
    """A process that is given another environment gets the guard with it."""
    start = subprocess.Popen.__init__

    def guarded(self: Any, *arguments: Any, **options: Any) -> None:
        if options.get("env") is not None and LOG in os.environ:
            paths = [str(Path(__file__).parent), *filter(None, [options["env"].get("PYTHONPATH")])]
            test = os.environ.get("PYTEST_CURRENT_TEST", "between the tests")
            inherited = {LOG: os.environ[LOG], "PYTEST_CURRENT_TEST": test}
            options["env"] = {**inherited, **options["env"], "PYTHONPATH": os.pathsep.join(paths)}
        start(self, *arguments, **options)

    subprocess.Popen.__init__ = guarded  # type: ignore[method-assign]


def install() -> None:
    """Once a process, under whatever name this file was imported."""
    if "_no_network" in vars(sys):
        return
    vars(sys)["_no_network"] = True
    sys.modules.setdefault("uvloop", None)  # type: ignore[arg-type]  # its sockets make no audit events
    if is_hub_requested():
        allow_hub_addresses()
    guard_children()
    sys.addaudithook(watch)


if os.environ.get(LOG):
    install()
