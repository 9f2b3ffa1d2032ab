"""Whether what was built is right, found out without umldisk: e2fsck looks at the disks, debugfs copies the files out
of them, and tarfile says what should be there.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNT_POINTS = {"root_fs": "", "var_fs": "var", "home_fs": "home", "tmp_fs": "tmp"}
_OURS = "etc/"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must be true of the disks, and whether it is."""

    text: str
    holds: bool


def check_disks(guest: Path, archive: Path | None, scratch: Path) -> list[Finding]:
    """Look at the disks in `guest`; all files of `archive` must be on them but those in /etc that are the guest's."""
    findings = [_checked(guest)]
    if archive is not None:
        copy = scratch / "copy"
        _copy_out(guest, copy)
        findings.append(_compared(archive, copy))
        shutil.rmtree(copy)
    return findings


def _checked(guest: Path) -> Finding:
    failed = [name for name in _MOUNT_POINTS if _tool("e2fsck", "-f", "-n", str(guest / name)).returncode]
    swap = (guest / "swap_fs").exists()
    if failed or not swap:
        return Finding(f"e2fsck is not content with {', '.join(failed) or 'a missing swap'}", False)
    return Finding("e2fsck finds nothing to repair on four disks, and there is a fifth", True)


def _copy_out(guest: Path, copy: Path) -> None:
    for name, point in _MOUNT_POINTS.items():
        target = copy / point
        target.mkdir(parents=True, exist_ok=True)
        _tool("debugfs", "-R", f"rdump / {target}", str(guest / name))


def _tool(*command: str) -> subprocess.CompletedProcess[bytes]:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    program = shutil.which(command[0], path=path) or command[0]
    return subprocess.run([program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _compared(archive: Path, copy: Path) -> Finding:
    count, different = 0, []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg():
                count += 1
                if not _is_same(tar, member, copy / member.name.removeprefix("./")):
                    different.append(member.name.removeprefix("./"))
    strange = [name for name in different if not name.startswith(_OURS)]
    if strange:
        return Finding(f"{len(strange)} of {count} files are not as in the archive, such as {strange[0]}", False)
    text = f"{count - len(different)} of {count} files are as in the archive"
    return Finding(f"{text}, the others are the guest's own in /etc" if different else text, True)


def _is_same(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != member.size:
        return False
    wanted = tar.extractfile(member)
    assert wanted is not None
    with path.open("rb") as found:
        return all(wanted.read(len(piece)) == piece for piece in _pieces(found.fileno()))


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, _CHUNK_BYTES):
        yield piece
