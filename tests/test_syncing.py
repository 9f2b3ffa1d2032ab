"""What Python's library has no words for, said to the kernel as it was meant."""

import subprocess
import sys
from pathlib import Path

from tests.kit.peers import needs

_CALLS = """
import os, sys
from umldisk.system.syncing import begin_writing_out, sync_file_system
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 41)
begin_writing_out(fd, 1 << 40, (1 << 40) + (5 << 32) + 4096)
begin_writing_out(os.pipe()[0], 0, 1)
sync_file_system(fd, sys.argv[1])
"""


@needs("strace")
def test_the_kernel_is_told_the_file_and_the_bytes(tmp_path: Path) -> None:
    log = tmp_path / "strace.log"
    argv = ["strace", "-y", "--trace=sync_file_range,syncfs", f"--output={log}", sys.executable, "-c", _CALLS]
    subprocess.run([*argv, str(tmp_path / "disk")], check=True, timeout=60)
    hint, vain, sync, _end = log.read_text().splitlines()
    words = f"<{tmp_path}/disk>, {1 << 40}, {(5 << 32) + 4096}, SYNC_FILE_RANGE_WRITE) = 0"
    assert hint.startswith("sync_file_range(")
    assert hint.endswith(words)
    assert vain.endswith("ESPIPE (Illegal seek)")
    assert sync.startswith("syncfs(")
    assert sync.endswith(" = 0")
