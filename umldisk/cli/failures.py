"""How a program of this package begins and ends: its streams, its last words, its exit status.

Whatever happens, a user reads one line on stderr that says what, perhaps a second with a hint, and
a script gets a status that says which kind it was. A traceback is printed only with --debug.

SIGTERM and SIGHUP end a command as Ctrl-C does, with everything tidied up, and then as the signal itself would.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from umldisk.errors import UmldiskError, from_os_error, printable

INTERNAL_EXIT_CODE = 70
"""A fault in umldisk itself (EX_SOFTWARE of sysexits.h)."""

INTERRUPTED_EXIT_CODE = 130
"""Stopped from the keyboard, as a shell reports SIGINT."""

BROKEN_PIPE_EXIT_CODE = 141
"""Whoever read stdout went away, as a shell reports SIGPIPE."""


_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class _Ended(KeyboardInterrupt):
    """A signal came that asks the process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def guarded(program: str, action: Callable[[], int]) -> int:
    """Run `action` to its exit code, or say on stderr what went wrong and return that failure's code."""
    _open_standard_streams()
    ended_by = None
    try:
        with _signals_interrupting():
            code = action()
            _flush_stdout()
    except _Ended as ending:
        code, ended_by = INTERRUPTED_EXIT_CODE, ending.number
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        code = BROKEN_PIPE_EXIT_CODE
    except UmldiskError as error:
        code = _say(program, error)
    except OSError as error:
        code = _say(program, _named(error))
    except Exception as error:  # noqa: BLE001  (the last resort: even a fault of ours ends in one line)
        code = _say_fault(program, error)
    _give_up_stdout()
    if ended_by is not None:
        os.kill(os.getpid(), ended_by)  # its own effect again, which is to end us
    return code


@contextlib.contextmanager
def _signals_interrupting() -> Iterator[None]:
    """Let signals that end a process raise _Ended; one that is ignored (nohup), or handled by a caller, stays so."""
    try:
        known = [number for number in _ENDING_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
        for number in known:
            signal.signal(number, _raise_ended)
    except ValueError:  # we are not in the main thread, where signals are handled
        known = []
    try:
        yield
    finally:
        for number in known:
            signal.signal(number, signal.SIG_DFL)


def _raise_ended(number: int, _frame: FrameType | None) -> None:
    raise _Ended(number)


def _open_standard_streams() -> None:
    """Make sure that no disk is opened under the number of a stream that was closed, and that any text prints."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush_stdout() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_os_error(error, "write", "standard output") from error


def _give_up_stdout() -> None:
    """Write what can be written; let the rest vanish quietly, which the interpreter at its end would complain about."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), sys.stdout.fileno())


def _named(error: OSError) -> UmldiskError:
    """An operating system's error that nobody explained, with the file if it names one."""
    where = error.filename if isinstance(error.filename, str) else None
    return UmldiskError(error.strerror or str(error) or type(error).__name__, where=where)


def _say(program: str, error: UmldiskError) -> int:
    said: tuple[str, ...] = getattr(error, "lines", None) or (error.line(),)  # a ConfigError has many
    lines = [f"{program}: error: {line}" for line in said]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    _write_stderr(lines)
    return error.exit_code


def _say_fault(program: str, error: Exception) -> int:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    _write_stderr([f"{program}: error: this is a fault in {program}: {what}"])
    return INTERNAL_EXIT_CODE


def _write_stderr(lines: list[str]) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("".join(printable(line) + "\n" for line in lines))
        sys.stderr.flush()
