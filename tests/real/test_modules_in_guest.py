"""A choice of the kernel's modules, loaded by the modprobe of the embedded base under the kernel they belong to."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.kit.guest import KERNEL_ARGUMENTS, Guest
from tests.kit.peers import needs
from umldisk.build.bases.busybox import BusyboxBase
from umldisk.build.files.modules import module_entries
from umldisk.build.tree import FileType, Inode, file, in_order, plant

pytestmark = needs("linux", "setarch", "mke2fs", "busybox")

# lockd, grace, sunrpc, fscache and netfs come by need, tun by the alias of its device node.
_CHOICE = ("nfs", "loop", "tun")
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
echo 1 >/proc/sys/kernel/printk
modprobe nfs && echo "nfs loaded"
modprobe char-major-10-200 && echo "alias loaded"
modprobe loop && modprobe -r loop && echo "loop removed"
modprobe dummy || echo "dummy is not there"
echo "loaded:" $(cut -d ' ' -f 1 /proc/modules | sort)
poweroff -f
"""


def _write(top: Path, path: str, inode: Inode) -> None:
    place = top / path.lstrip("/")
    match inode.type:
        case FileType.DIRECTORY:
            place.mkdir(exist_ok=True)
        case FileType.SYMLINK:
            place.symlink_to(inode.target)
        case _:
            place.write_bytes(b"".join(data for _, data in inode.contents.pieces()))
            place.chmod(inode.mode)


def _make_disk(directory: Path) -> Path:
    tree = plant({}, BusyboxBase().entries())
    plant(tree, module_entries(_CHOICE))
    plant(tree, [file("/start", _INIT, 0o755)])
    for path, inode in in_order(tree):
        _write(directory / "tree", path, inode)
    disk = directory / "disk"
    mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") or "mke2fs"
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", str(directory / "tree"), str(disk), "64M"], check=True)
    return disk


def test_a_choice_of_modules_is_whole(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    disk = _make_disk(tmp_path)
    argv = ["setarch", "-R", "linux", *KERNEL_ARGUMENTS, f"ubd0={disk}", "root=/dev/ubda", "ro", "init=/start"]
    with Guest(argv) as guest:
        guest.wait_exit()
        console = guest.console
    for said in ("nfs loaded", "alias loaded", "loop removed", "dummy is not there"):
        assert said in console
    found = re.search(r"^loaded: (.*)$", console, re.MULTILINE)
    assert found
    assert found[1].split() == ["fscache", "grace", "lockd", "netfs", "nfs", "sunrpc", "tun"]
