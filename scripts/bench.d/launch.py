"""Runs one command and prints: seconds, peak of memory in KiB, exit status, 1 if it was ended by the timeout.

A process of its own because the kernel counts the memory of whoever starts a program into that program's peak. This
one imports next to nothing; start it with -I -S, alone in its session, so that all it starts can be ended with it.
"""

import os
import select
import signal
import sys
import time

_TIDY_SECONDS = 5


def main(timeout_seconds: float, command: list[str]) -> None:
    """Run, wait, print."""
    started = time.perf_counter()
    discard = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=discard)
    waiting = select.poll()
    waiting.register(os.pidfd_open(pid), select.POLLIN)
    in_time = waiting.poll(timeout_seconds * 1000)
    seconds = time.perf_counter() - started
    if not in_time:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)  # its children too; all that was started is in this session
        waiting.poll(_TIDY_SECONDS * 1000)
        os.kill(pid, signal.SIGKILL)
    _pid, status, usage = os.wait4(pid, 0)
    print(seconds, usage.ru_maxrss, os.waitstatus_to_exitcode(status), int(not in_time))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
