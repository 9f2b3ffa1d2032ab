"""A TCP proxy that cuts connections: what a bad line does to a client."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """A running proxy at `address`; `limit` tells how many bytes the n-th connection (from 0) may send, None for all.

    `requests` are the first lines of the HTTP requests that came, of every connection.
    """

    limit: Callable[[int], int | None]
    address: str = ""
    connections: int = 0
    cut: int = 0
    requests: list[str] = field(default_factory=list)

    def count(self, start: str) -> int:
        """Return how many requests began with these words."""
        return sum(request.startswith(start) for request in self.requests)


@contextlib.contextmanager
def proxied(target: str, limit: Callable[[int], int | None] = lambda _number: None) -> Iterator[Proxy]:
    """Pass connections on to `target`, HOST:PORT, until the block ends."""
    proxy = Proxy(limit)
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.address = f"127.0.0.1:{server.getsockname()[1]}"
        accepting = threading.Thread(target=_accept, args=(server, target, proxy))
        accepting.start()
        try:
            yield proxy
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(server: socket.socket, target: str, proxy: Proxy) -> None:
    host, _colon, port = target.partition(":")
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []
    with contextlib.suppress(OSError):
        while True:
            client, _address = server.accept()
            upstream = socket.create_connection((host, int(port)))
            opened += [client, upstream]
            allowed = proxy.limit(proxy.connections)
            proxy.connections += 1
            for arguments in ((client, upstream, proxy, allowed), (upstream, client, None, None)):
                threads.append(threading.Thread(target=_pass_on, args=arguments))
                threads[-1].start()
    for end in opened:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for end in opened:
        end.close()


def _pass_on(source: socket.socket, sink: socket.socket, proxy: Proxy | None, allowed: int | None) -> None:
    """Pass bytes on, and cut both ends when `allowed` of them have passed."""
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if proxy is not None:
                _note_requests(data, proxy)
            if proxy is not None and allowed is not None and passed + len(data) > allowed:
                sink.sendall(data[: allowed - passed])
                proxy.cut += 1
                break
            passed += len(data)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _note_requests(data: bytes, proxy: Proxy) -> None:
    first = data.split(b"\r\n", maxsplit=1)[0]
    if first.endswith(b"HTTP/1.1"):
        proxy.requests.append(first.decode(errors="replace"))
