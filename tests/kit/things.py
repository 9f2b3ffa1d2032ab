"""Things that a path can lead to and that are no disk: each maker puts one in place and returns the path."""

import os
import socket
from pathlib import Path


def fifo(path: Path) -> str:
    """Make a FIFO, which blocks whoever opens it carelessly."""
    os.mkfifo(path)
    return str(path)


def unix_socket(path: Path) -> str:
    """Make a socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return str(path)


def symlink_loop(path: Path) -> str:
    """Make two symlinks that lead to each other."""
    back = path.with_name(f"{path.name}-back")
    path.symlink_to(back.name)
    back.symlink_to(path.name)
    return str(path)


def dangling(path: Path) -> str:
    """Make a symlink to nothing."""
    path.symlink_to("nowhere")
    return str(path)
