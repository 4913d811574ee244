"""The address that the demo listens on, checked before any model is loaded."""

import errno
import socket

from eightball_ppo.errors import InputError


def check_address(name: str, port: int) -> None:
    """Binds to the address and releases it.

    Raises:
        InputError: The port is taken or needs other rights, or the name is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        socket.create_server((name, port), family=family).close()
    except (OSError, UnicodeError) as error:
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            raise InputError(f"--server_port {port}: is taken; pass another") from None
        if code == errno.EACCES:
            raise InputError(f"--server_port {port}: not allowed for this user; pass one above 1023") from None
        raise InputError(f"--server_name {name}: no address of this machine; pass 127.0.0.1 or 0.0.0.0") from None


def url_of(name: str, port: int) -> str:
    """The URL at which a browser on this machine finds the server."""
    host = "127.0.0.1" if name in ("0.0.0.0", "::", "") else name
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
