"""Which of a guest's processes is the kernel itself, when process ids start anew in between."""

import subprocess
import sys
from pathlib import Path

from tests.kit.peers import needs

# Runs in a pid namespace of its own. The eldest has the highest id of all, its child of the same tick the lowest.
_AFTER_THE_LAST_ID = """
import os, sys
from umldisk.ops.running.who import who_has
with open("/proc/sys/kernel/pid_max") as most, open("/proc/sys/kernel/ns_last_pid", "w") as last:
    highest = int(most.read()) - 1
    last.write(str(highest - 1))
ready, was_forked = os.pipe()
if not os.fork():
    file = open(sys.argv[1])
    os.fork()
    os.write(was_forked, b".")
    os.read(os.pipe()[0], 1)
while os.read(ready, 1) and len((hold := who_has([sys.argv[1]]).files[0].holds[0]).pids) < 2:
    pass
assert hold.umid == "mailhost" and hold.pids[1] == hold.pid == highest, hold
"""


@needs("root", "unshare")
def test_the_eldest_process_of_a_guest_is_known_when_ids_start_anew(tmp_path: Path) -> None:
    image = tmp_path / "root_fs"
    image.write_bytes(b"x")
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", _AFTER_THE_LAST_ID, image]
    done = subprocess.run([*command, "umid=mailhost"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
