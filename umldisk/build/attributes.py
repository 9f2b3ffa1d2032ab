"""One debugfs script that makes the inodes of a fresh disk what the tree says.

`mke2fs -d` has copied names and contents; owner, mode, times, device numbers and extended attributes are written here,
for root in the same way as for everyone. Inodes are addressed by number, read back from the disk itself, so that no
name can break a command, and debugfs, which would search every directory of a path, gets through 500,000 commands a
second. Names are needed for two things that scratch trees cannot have, and these go first, in scripts that are mostly
empty: device nodes, and several names of one device node or symlink, which mke2fs would give an inode each.

How a field is written (fs/ext4/ext4.h):

    xtime        the low 32 bits of the seconds, `@N` being the one spelling that debugfs never takes for a date
    xtime_extra  nanoseconds << 2 | the two bits that carry on where 32 end (1901 to 2446)
    block[0]     a device number with major and minor below 256, block[1] a larger one

All four times of an inode get the tree's one; see `umldisk.build.tree`.

Left out: a line break in the name of an extended attribute, of a device node, or of a symlink with several names,
which a script could not say; all are refused. ACLs are handed over as the kernel's getxattr gives them, debugfs turns
them into ext4's form.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from posixpath import basename, dirname

from umldisk.build.tree import FileType, Inode, Tree, in_order, path_bytes
from umldisk.errors import DataError, StorageError, from_os_error, printable
from umldisk.system.process import DISCARD, run

PACKAGE = "e2fsprogs"
_BANNER = "debugfs "
_TIMES = ("atime", "ctime", "mtime", "crtime")
_LARGEST_MAJOR, _LARGEST_MINOR = 0xFFF, 0xFFFFF


def device_script(share: Tree, numbers: Mapping[str, int]) -> Iterator[bytes]:
    """Yield the commands that make the device nodes of `share`, whose directories have the inodes `numbers`."""
    for path, inode in in_order(share):
        if inode.type.is_device:
            kind = "c" if inode.inode_mode & 0o40000 == 0 else "b"
            yield b"cd <%d>\n" % numbers[dirname(path)]
            yield b"mknod %s %s 0 0\n" % (_quote(basename(path), "a device node"), kind.encode())


def link_script(share: Tree, numbers: Mapping[str, int]) -> Iterator[bytes]:
    """Yield the commands that make several names of a device node or symlink names of one inode.

    Neither mke2fs nor `mknod` makes them so: until here every name has an inode of its own. A name is taken away before
    it is linked, because `ln` does not make room in a directory; the inode is cleared, because `kill_file` writes down
    the moment.
    """
    names: dict[int, list[str]] = {}
    for path, inode in in_order(share):
        if inode.type.is_device or inode.type is FileType.SYMLINK:
            names.setdefault(id(inode), []).append(path)
    for first, *others in names.values():
        for path in others:
            name = _quote(basename(path), "a device node or symlink with several names")
            yield b"cd <%d>\nunlink %s\n" % (numbers[dirname(path)], name)
            yield b"sif <%d> links_count 0\nkill_file <%d>\nclri <%d>\n" % ((numbers[path],) * 3)
            yield b"ln <%d> %s\n" % (numbers[first], name)
        if others:
            yield b"sif <%d> links_count %d\n" % (numbers[first], 1 + len(others))


def attribute_script(share: Tree, numbers: Mapping[str, int], values: str) -> Iterator[bytes]:
    """Yield the commands that give every inode of `share` what the tree says of it.

    The values of extended attributes are written to files in the directory `values`, from which debugfs is to be run.
    """
    done = set()
    for path, inode in in_order(share):
        if id(inode) not in done:
            done.add(id(inode))
            yield _inode_commands(numbers[path], inode)
            yield from _xattr_commands(numbers[path], path, inode, values)


def _inode_commands(number: int, inode: Inode) -> bytes:
    low, extra = encode_time(inode.mtime_ns)
    fields = [("mode", f"0{inode.inode_mode:o}"), ("uid", f"{inode.uid}"), ("gid", f"{inode.gid}")]
    for name in _TIMES:
        fields += [(name, f"@{low}"), (f"{name}_extra", f"{extra}")]
    if inode.type.is_device:
        fields += zip(("block[0]", "block[1]"), map(str, encode_device(*inode.device)), strict=True)
    return "".join(f"sif <{number}> {name} {value}\n" for name, value in fields).encode()


def encode_time(time_ns: int) -> tuple[int, int]:
    """Return the two 32-bit fields of a time that ext4 can hold (ext4_encode_extra_time in the kernel)."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    epoch = (seconds + (1 << 31)) >> 32
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | epoch


def encode_device(major: int, minor: int) -> tuple[int, int]:
    """Return i_block[0] and i_block[1] of a device node (old_encode_dev and new_encode_dev in linux/kdev_t.h)."""
    if not (0 <= major <= _LARGEST_MAJOR and 0 <= minor <= _LARGEST_MINOR):
        raise DataError(
            "a device number is too large for a guest",
            expected=f"a major up to {_LARGEST_MAJOR} and a minor up to {_LARGEST_MINOR}",
            found=f"{major}, {minor}",
        )
    if major < 256 and minor < 256:
        return major << 8 | minor, 0
    return 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _xattr_commands(number: int, path: str, inode: Inode, values: str) -> Iterator[bytes]:
    for index, (name, value) in enumerate(inode.xattrs):
        file_name = f"{number}.{index}"
        try:
            with open(os.path.join(values, file_name), "xb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(value)
        except OSError as error:
            raise from_os_error(error, "write scratch files", values) from error
        yield b"ea_set -f %s <%d> %s\n" % (file_name.encode(), number, _quote(name, f"an attribute of {path}"))


def _quote(name: str, what: str) -> bytes:
    """Quote for debugfs's reader of lines, where a quote inside quotes is doubled."""
    if "\n" in name or "\r" in name:
        raise DataError(f"the name of {what} has a line break in it", found=name)
    return b'"' + path_bytes(name).replace(b'"', b'""') + b'"'


def run_script(image: str, commands: Iterable[bytes], directory: str, *, environment: Mapping[str, str]) -> None:
    """Let debugfs run `commands` on `image` from `directory`; nothing is run when there are none.

    debugfs exits 0 even when a command failed; all it says on stderr besides its own name counts as failure. Raises
    StorageError.
    """
    script = os.path.join(directory, "script")
    try:
        with open(script, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.writelines(commands)
        if os.path.getsize(script) == 0:
            return
    except OSError as error:
        raise from_os_error(error, "write scratch files", script) from error
    argv = ["debugfs", "-w", "-f", "script", image]
    finished = run(argv, package=PACKAGE, environment=environment, cwd=directory, stdout=DISCARD)
    said = finished.stderr.decode(errors="replace").splitlines()
    complaints = [line for line in said if line.strip() and not line.startswith(_BANNER)]
    if complaints:
        raise StorageError(f"debugfs failed: {printable(complaints[0].strip())}", where=image)
