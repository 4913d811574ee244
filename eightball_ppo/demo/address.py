"""Whether the demo can listen where it is told to: tried before any model is loaded."""

import errno
import socket

from eightball_ppo.errors import InputError


def check_address(name: str, port: int) -> None:
    """Bind to the address and let it go again.

    Raises:
        InputError: the name is no address of this machine, the port is taken, or it needs other rights.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of a server that just ended is free
            own.bind(address)
            own.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--server_port {port}: is taken; pass another") from None
        if error.errno == errno.EACCES:
            raise InputError(f"--server_port {port}: not allowed for this user; pass one above 1023") from None
        raise InputError(f"--server_name {name}: no address of this machine; pass 127.0.0.1 or 0.0.0.0") from None
    except UnicodeError:
        raise InputError(f"--server_name {name}: no address of this machine; pass 127.0.0.1 or 0.0.0.0") from None


def url_of(name: str, port: int) -> str:
    """Where a browser on this machine finds what listens there."""
    host = "127.0.0.1" if name in ("0.0.0.0", "::", "") else name
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
