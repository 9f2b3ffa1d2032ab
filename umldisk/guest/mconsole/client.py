"""A client of mconsole: one request, one answer, one deadline.

    us     connect ──▶ UML_DIR/UMID/mconsole          through a descriptor of just the socket that was checked
           bind        UML_DIR/.mc-RANDOM             where the answer goes; removed at the end
           send    ──▶ request
    guest  reply   ──▶ UML_DIR/.mc-RANDOM             piece by piece, until one says that it is the last

*Where the answer goes.* A guest in another network namespace reaches no abstract address, and one in a jail no path
but those it was given: UML_DIR, under the same name inside and outside.

*Connected before bound.* The kernel then takes packets for us from the guest's socket alone (others get EPERM), by
what the socket is and not by its name; and it waives the limit of net.unix.max_dgram_qlen packets (unix_dgram_sendmsg
in net/unix/af_unix.c), which without a connection loses the end of answers longer than that, because a UML kernel does
not send again. Left is the guest's own send buffer, some 270 packets that we have not yet taken. Nobody else's packet
can lie there from before.

*Whom we trust.* UML_DIR may belong to the guest's user, who may put anything there at any time. The guest's socket is
opened without following a link, looked at, and only then used. Ours is made by bind(2), which follows no link either;
its mode is changed through a descriptor that was looked at, so that no other file is ever opened to the world. A guest
may say nothing, lie, or never end: one deadline stands for the whole answer, and a limit for its size.

A process that is killed leaves its socket in UML_DIR; it is never used again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator

from umldisk.errors import CannotCreateError, NoInputError, StorageError, UsageError, from_os_error
from umldisk.guest.mconsole.commands import encode
from umldisk.guest.mconsole.packets import MAX_PACKET_BYTES, Assembly, Reply, build_request

MAX_TIMEOUT_SECONDS = 86400
_MAX_SOCKET_PATH_BYTES = 107
_REPLY_MODE = 0o666  # the guest may be another user's


class NoAnswerError(StorageError):
    """A guest did not answer in time, or not to the end; `partial` is what came."""

    def __init__(self, what: str, *, where: str, partial: str = "", hint: str | None = None) -> None:
        self.partial = partial
        super().__init__(what, where=where, hint=hint)


class Refused(StorageError):  # noqa: N818
    """A guest answered that it does not do what it was asked; `answer` is its reason, `code` its number for it."""

    def __init__(self, command: str, reply: Reply, *, where: str) -> None:
        self.answer = reply.text
        self.code = reply.error
        super().__init__(f"mconsole refused {command}: {reply.text or f'error {reply.error}'}", where=where)


class Mconsole:
    """The mconsole of one guest, for any number of commands from any number of threads.

    `reply_directory` is where the guest finds our sockets, by default its UML_DIR. With `owner_uid` the guest's socket
    must be that user's. `timeout_seconds` is for a command with all of its answer.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        reply_directory: str | None = None,
        timeout_seconds: float = 5.0,
        owner_uid: int | None = None,
    ) -> None:
        self._path = os.path.abspath(socket_path)
        self._reply_directory = os.path.abspath(reply_directory or os.path.dirname(os.path.dirname(self._path)))
        self._timeout_seconds = _checked(timeout_seconds)
        self._owner_uid = owner_uid

    def send(self, command: str, *, raw: bool = False, timeout_seconds: float | None = None) -> str:
        """Send one command and return its answer, without the line breaks around it.

        Raises UsageError for a command that is not safe to send and not `raw`; NoInputError when the guest is not
        there; Refused; NoAnswerError, which does not mean that the command was not carried out; DataError when the
        answer makes no sense or is too long; CannotCreateError and StorageError when there is no place for an answer.
        """
        request = build_request(encode(command, raw=raw))
        wait_seconds = self._timeout_seconds if timeout_seconds is None else _checked(timeout_seconds)
        deadline = time.monotonic() + wait_seconds
        assembly = Assembly(self._path)
        with self._connected() as client:
            try:
                reply = _exchange(client, request, assembly, deadline)
            except TimeoutError:
                raise self._no_answer(command, wait_seconds, assembly.text) from None
            except OSError as error:
                raise self._gone(error, "speak to the guest's mconsole") from error
        if reply.error:
            raise Refused(command, Reply(reply.text.strip("\n"), reply.error), where=self._path)
        return reply.text.strip("\n")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """Open a socket to the guest's, with a place for its answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            self._connect(client)
            path = os.path.join(self._reply_directory, f".mc-{secrets.token_hex(8)}")
            _bind(client, path)
            try:
                _open_to_the_guest(path)
                yield client
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _connect(self, client: socket.socket) -> None:
        try:
            target = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._require_the_guests(os.fstat(target))
                client.connect(f"/proc/self/fd/{target}")
            finally:
                os.close(target)
        except OSError as error:
            raise self._gone(error, "connect to the guest's mconsole") from error

    def _require_the_guests(self, status: os.stat_result) -> None:
        if not stat.S_ISSOCK(status.st_mode):
            raise NoInputError(
                "not an mconsole", where=self._path, expected="a socket", found=stat.filemode(status.st_mode)
            )
        if self._owner_uid not in (None, status.st_uid):
            raise NoInputError(
                "this mconsole is not the guest's",
                where=self._path,
                expected=f"owner {self._owner_uid}",
                found=status.st_uid,
            )

    def _gone(self, error: OSError, doing: str) -> StorageError | NoInputError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return NoInputError(
                "no guest listens here", where=self._path, hint="UML makes the socket when it starts, and takes it away"
            )
        if isinstance(error, ConnectionRefusedError | ConnectionResetError):
            return NoInputError(
                "the guest is gone", where=self._path, hint="it was killed, and its socket was left behind"
            )
        if isinstance(error, PermissionError):
            return NoInputError("the guest's mconsole may not be used by this user", where=self._path)
        return from_os_error(error, doing, self._path)

    def _no_answer(self, command: str, wait_seconds: float, partial: str) -> NoAnswerError:
        said = "the answer was cut off: its end did not come" if partial else "the guest's mconsole does not answer"
        return NoAnswerError(
            f"{said} within {wait_seconds:g} s, asked for {command}",
            where=self._path,
            partial=partial.strip("\n"),
            hint="the guest may have carried out the command all the same",
        )


def _checked(timeout_seconds: float) -> float:
    if not 0 < timeout_seconds <= MAX_TIMEOUT_SECONDS:
        raise UsageError(
            "not a timeout", expected=f"more than 0 and at most {MAX_TIMEOUT_SECONDS} seconds", found=timeout_seconds
        )
    return timeout_seconds


def _bind(client: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise CannotCreateError(
            "the path of the socket for a guest's answer is too long",
            where=path,
            expected=f"at most {_MAX_SOCKET_PATH_BYTES} bytes",
            found=len(os.fsencode(path)),
            hint="start the guest with a uml_dir that has a shorter path",
        )
    try:
        client.bind(path)
    except OSError as error:
        raise CannotCreateError(
            f"cannot make a socket for the guest's answer: {error.strerror}",
            where=os.path.dirname(path),
            hint="run this as the user of the guest, or as root" if isinstance(error, PermissionError) else None,
        ) from error


def _open_to_the_guest(path: str) -> None:
    """Let every user send to our socket, and change nothing else that stands there in its place."""
    try:
        ours = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(ours)
            if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
                raise StorageError("somebody replaced the socket for the guest's answer", where=path)
            os.chmod(f"/proc/self/fd/{ours}", _REPLY_MODE)
        finally:
            os.close(ours)
    except OSError as error:
        raise from_os_error(error, "open the socket for the guest's answer to the guest", path) from error


def _exchange(client: socket.socket, request: bytes, assembly: Assembly, deadline: float) -> Reply:
    """Send a request and receive until the answer is whole; raises TimeoutError at the deadline."""
    _wait_until(client, deadline)
    client.send(request)
    while True:
        _wait_until(client, deadline)
        reply = assembly.add(client.recv(MAX_PACKET_BYTES + 1))
        if reply is not None:
            return reply


def _wait_until(client: socket.socket, deadline: float) -> None:
    left_seconds = deadline - time.monotonic()
    if left_seconds <= 0:
        raise TimeoutError
    client.settimeout(left_seconds)
