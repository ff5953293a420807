"""Ports of this machine."""

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """Returns the number of a port that nobody listens on.

    Args:
        host: String, the address of this machine. `""` means all of its addresses.
            Defaults to `"127.0.0.1"`.
    """
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port
