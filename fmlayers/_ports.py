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


def free_address() -> str:
    """Returns an address `HOST:PORT` of this machine in its Ray cluster."""
    import ray

    return f"{ray.util.get_node_ip_address()}:{free_port('')}"
