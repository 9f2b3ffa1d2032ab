"""Real User-mode Linux guests for tests.

Two kinds. `run_script` boots the host's own tree, read-only through hostfs, with a script as init:
about a second for whatever the kernel has to say about a disk. `Guest` runs any command that boots
a kernel, such as the one `umldisk build` prints, and speaks to its console and its mconsole.

Each guest gets a session and a short temporary directory of its own, so that tests may run side by
side. UML spreads over several host processes of which all but one survive a killed main process;
the whole group is killed at the end, whatever happened.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BOOT_TIMEOUT_SECONDS = 60.0
_KILL_TIMEOUT_SECONDS = 10.0
_HALTED = b"reboot: System halted"
MEMORY = "64M"
KERNEL_ARGUMENTS = (
    f"mem={MEMORY}",
    "con=null",
    "con0=fd:0,fd:1",
    "ssl=null",
    # Measuring RAID 6 code takes longer than the rest of the kernel's start.
    "initcall_blacklist=raid6_select_algo",
)

_BEGIN, _END = "umldisk-script-begins", "umldisk-script-ends"
_SCRIPT_INIT = f"""\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/
# With a path: busybox runs its applets through /proc/self/exe, which is still the host's kernel.
/bin/busybox mount -t proc proc /proc
echo 1 >/proc/sys/kernel/printk
echo {_BEGIN}
busybox sh "${{0%/init}}/script" 2>&1
echo {_END} $?
busybox dmesg
sync
busybox poweroff -f
"""


class GuestError(AssertionError):
    """A guest did not do what a test waited for; the message ends with its console."""


@dataclass(frozen=True)
class ScriptRun:
    """What a script in a guest did: its output, exit status, and all that the console showed.

    While the script runs, kernel messages stay off the console; they follow after its output.
    """

    output: str
    status: int
    console: str


class Guest:
    """A running UML kernel, as a context manager: entering starts it, leaving ends it by force.

    `argv` boots the kernel with its console on stdin and stdout; `uml_dir=` is added. With `uid`,
    which takes root, an ordinary user runs it. The kernel inherits the descriptors `pass_fds` too, under the same
    numbers.
    """

    def __init__(self, argv: Sequence[str], *, uid: int | None = None, pass_fds: Sequence[int] = ()) -> None:
        self.argv = list(argv)
        umids = [word.removeprefix("umid=") for word in argv if word.startswith("umid=")]
        self.umid = umids[-1] if umids else "test"
        if not umids:
            self.argv.append("umid=test")
        self._uid = uid
        self._pass_fds = tuple(pass_fds)
        self._buffer = bytearray()
        self._grown = threading.Condition()
        self._ended = False
        self._position = 0
        self._commands = 0

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="uml-", dir="/tmp"))
        try:
            self._prepare()
            if self._uid is not None:
                os.chown(self.directory, self._uid, self._uid)
            self._start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def _prepare(self) -> None:
        """Put files into the guest's directory before it starts."""

    def _start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*self.argv, f"uml_dir={self.directory}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            start_new_session=True,
            user=self._uid,
            group=self._uid,
            extra_groups=None if self._uid is None else [],
            pass_fds=self._pass_fds,
            bufsize=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read(65536):
            with self._grown:
                self._buffer += chunk
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._reader.join(timeout=10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The main process, which holds the locks on the disks."""
        return self.process.pid

    @property
    def console(self) -> str:
        """Everything the console has shown so far."""
        with self._grown:
            return self._buffer.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str, *, timeout: float = BOOT_TIMEOUT_SECONDS) -> re.Match[str]:
        """Wait until the console shows `pattern`, a regular expression, after the last match."""
        wanted = re.compile(pattern.encode())
        deadline = time.monotonic() + timeout
        with self._grown:
            while not (found := wanted.search(self._buffer, self._position)):
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "ended" if self._ended else f"took {timeout:g} s"
                    raise GuestError(f"the guest {why} without showing {pattern!r}\n{self._tail()}")
                self._grown.wait(left)
            self._position = found.end()
            shown = bytes(self._buffer[found.start() : found.end()])
        match = re.fullmatch(pattern, shown.decode(errors="replace"), re.DOTALL)
        assert match is not None
        return match

    def _tail(self) -> str:
        return self._buffer[-6000:].decode(errors="replace").replace("\r\n", "\n")

    def wait_ready(self, *, timeout: float = BOOT_TIMEOUT_SECONDS) -> float:
        """Wait for the line that a built guest ends its start with; return the seconds it took."""
        self.wait_for(r"umldisk: \S+ is ready", timeout=timeout)
        return time.monotonic() - self.started

    def send(self, text: str) -> None:
        """Type `text` on the console."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def run(self, command: str, *, timeout: float = 30.0) -> str:
        """Run a shell command on the logged-in console and return its output; it must succeed."""
        if not self._commands:
            self.wait_for(r"# ")
        self._commands += 1
        number = self._commands
        # The quotes keep the echo of what is typed from being taken for the output.
        self.send(f"echo be''gin-{number}; {{ {command}\n}}; echo e''nd-{number} $?\n")
        self.wait_for(rf"begin-{number}\r?\n", timeout=timeout)
        start = self._position
        ended = self.wait_for(rf"end-{number} (\d+)\r?\n", timeout=timeout)
        with self._grown:
            raw = bytes(self._buffer[start : self._position])
        output = raw.decode(errors="replace").replace("\r\n", "\n")
        output = output[: output.rindex(f"end-{number} ")]
        if ended[1] != "0":
            raise GuestError(f"{command!r} in the guest failed with status {ended[1]}:\n{output}")
        return output

    def mconsole(self, command: str, *, timeout: float = 10.0) -> str:
        """Send one mconsole command and return its answer; raises GuestError for an error."""
        path = self.directory / self.umid / "mconsole"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(timeout)
            with tempfile.TemporaryDirectory(prefix="mc-", dir=self.directory) as own:
                client.bind(f"{own}/s")
                for path_to_us, mode in ((own, 0o755), (f"{own}/s", 0o777)):
                    os.chmod(path_to_us, mode)  # the guest may be another user
                data = command.encode()
                client.sendto(_REQUEST.pack(_MAGIC, _VERSION, len(data)) + data, str(path))
                return _read_reply(client, command)

    def cad(self) -> None:
        """Press ctrl-alt-del."""
        self.mconsole("cad")

    def wait_exit(self, *, timeout: float = BOOT_TIMEOUT_SECONDS) -> int:
        """Wait until the kernel has ended and return its exit status.

        UML 6.1 sometimes aborts after it has said that the system is halted, one time in some hundreds: that counts as
        0, because nothing of the guest's is left to be done then.
        """
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            with self._grown:
                tail = self._tail()
            raise GuestError(f"the guest did not end in {timeout:g} s\n{tail}") from None
        self._reader.join(timeout=_KILL_TIMEOUT_SECONDS)
        return 0 if status == -signal.SIGABRT and _HALTED in self._buffer else status

    def kill(self) -> None:
        """Kill every host process of the guest, as a power cut would, and wait until all are gone."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        deadline = time.monotonic() + _KILL_TIMEOUT_SECONDS
        while left := _living_in_session(self.pid):
            if time.monotonic() > deadline:
                raise GuestError(f"processes {left} of the guest cannot be killed")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _living_in_session(session: int) -> list[int]:
    """Find the processes of a session, without those that only wait to be reaped."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name in brackets may hold blanks; state, parent, group and session follow it.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


_MAGIC, _VERSION = 0xCAFEBABE, 2
_REQUEST = struct.Struct("=III")
_REPLY = struct.Struct("=III")


def _read_reply(client: socket.socket, command: str) -> str:
    text, failed, more = "", 0, 1
    while more:
        try:
            packet = client.recv(4096)
        except TimeoutError:
            raise GuestError(f"mconsole did not answer {command!r}") from None
        error, more, length = _REPLY.unpack_from(packet)
        failed = failed or error
        text += packet[_REPLY.size :][:length].rstrip(b"\0").decode(errors="replace")
    if failed:
        raise GuestError(f"mconsole refused {command!r}: {text}")
    return text


class ScriptGuest(Guest):
    """A guest whose root is the host's tree, read-only, and whose init runs `script` (busybox sh).

    `disks` are the values of ubd0, ubd1, ...: `FILE` or `COW,FILE`. /proc and /dev are there, /mnt
    is free for mounting, busybox's own commands come before the host's programs. Nothing is
    unmounted at the end; the script does that, where it matters.
    """

    def __init__(
        self, script: str, disks: Sequence[str | os.PathLike[str]] = (), *, arguments: Sequence[str] = ()
    ) -> None:
        ubds = [f"ubd{number}={os.fspath(disk)}" for number, disk in enumerate(disks)]
        root = ["root=/dev/root", "rootfstype=hostfs", "ro"]
        argv = ["setarch", "-R", "linux", *KERNEL_ARGUMENTS, *root, *ubds, *arguments]
        super().__init__(argv)
        self._script = script

    def _prepare(self) -> None:
        init = self.directory / "init"
        init.write_text(_SCRIPT_INIT)
        init.chmod(0o755)
        (self.directory / "script").write_text(self._script)
        self.argv.append(f"init={init}")

    def finish(self, *, timeout: float = BOOT_TIMEOUT_SECONDS) -> ScriptRun:
        """Wait for the end of the script and of the guest."""
        self.wait_exit(timeout=timeout)
        self._reader.join(timeout=10)
        console = self.console
        found = re.search(rf"{_BEGIN}\n(.*?){_END} (\d+)\n", console, re.DOTALL)
        if found is None:
            raise GuestError(f"the script did not come to its end\n{console[-6000:]}")
        return ScriptRun(found[1], int(found[2]), console)


def run_script(
    script: str,
    disks: Sequence[str | os.PathLike[str]] = (),
    *,
    timeout: float = BOOT_TIMEOUT_SECONDS,
    arguments: Sequence[str] = (),
) -> ScriptRun:
    """Boot a kernel that runs `script` as described at ScriptGuest, and wait for its end."""
    with ScriptGuest(script, disks, arguments=arguments) as guest:
        return guest.finish(timeout=timeout)
