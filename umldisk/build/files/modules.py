"""The UML kernel's modules: all of them, or some with what they need.

Debian's user-mode-linux has its modules on the host, below /usr/lib/uml/modules/RELEASE. In a guest they lie in
/lib/modules/RELEASE, where modprobe looks. There may be several releases; all are taken, for nothing tells here which
kernel will boot.

Of a choice, every module comes with all that modules.dep says it needs, and the indexes are cut down to what is there:
modprobe in the guest finds just what it has, and an alias never leads to a file that is missing. Lists of what is built
into the kernel stay as they are; a name that is built in is no mistake.

Weak dependencies (softdep) are not followed: modprobe takes them when they are there and goes on without.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from umldisk.build.files.hostfile import host_file
from umldisk.build.files.module_index import read_index, write_index
from umldisk.build.tree import Entry, Inode, Text, path_bytes, path_text
from umldisk.errors import NoInputError, UsageError, from_os_error
from umldisk.system.files import open_disk

HOST_DIRECTORY = "/usr/lib/uml/modules"
GUEST_DIRECTORY = "/lib/modules"
_DEP = "modules.dep"


@dataclass(frozen=True, slots=True)
class _Release:
    """The modules of one kernel: `directory` on the host, `files` below it, `needs` by path as in modules.dep."""

    name: str
    directory: str
    files: Sequence[str]
    needs: Mapping[str, Sequence[str]]

    def read(self, name: str) -> bytes:
        with open_disk(os.path.join(self.directory, name)) as found:
            return found.read_at(0, found.size_bytes)


def module_entries(names: tuple[str, ...] | None, *, directory: str = HOST_DIRECTORY) -> Iterator[Entry]:
    """Yield the modules called `names` with what they need, none for (), all for None, and their indexes.

    `-` and `_` are the same in a name. Raises NoInputError when the host has no modules, UsageError for a name that no
    module has.
    """
    if names == ():
        return
    for release in _releases(directory):
        chosen = None if names is None else _chosen(release, names)
        yield from _entries(release, chosen)


def _releases(directory: str) -> list[_Release]:
    try:
        found = sorted(name for name in os.listdir(directory) if os.path.exists(os.path.join(directory, name, _DEP)))
    except OSError:
        found = []
    if not found:
        raise NoInputError(
            "the host has no modules of a UML kernel",
            where=directory,
            hint="apt-get install user-mode-linux, or build without modules: modules = []",
        )
    return [_read_release(os.path.join(directory, name)) for name in found]


def _read_release(directory: str) -> _Release:
    release = _Release(os.path.basename(directory), directory, _files_below(directory), {})
    lines = (line.partition(":") for line in path_text(release.read(_DEP)).splitlines())
    needs = {path: tuple(needed.split()) for path, colon, needed in lines if colon}
    return _Release(release.name, directory, release.files, needs)


def _files_below(top: str) -> list[str]:
    """Return the paths of all regular files below `top`, sorted; links are left out (`build`, `source`)."""

    def fail(error: OSError) -> None:
        raise from_os_error(error, "read the kernel's modules", top) from error

    found = []
    for place, _, names in os.walk(top, onerror=fail):
        paths = (os.path.join(place, name) for name in names)
        found += [os.path.relpath(path, top) for path in paths if not os.path.islink(path)]
    return sorted(found)


def module_name(path: str) -> str:
    """Return what modprobe calls the module in `path`: its name without suffixes, every `-` a `_`."""
    return posixpath.basename(path).partition(".")[0].replace("-", "_")


def _chosen(release: _Release, names: Iterable[str]) -> frozenset[str]:
    """Return the paths of the modules called `names` and of all that they need."""
    known = {module_name(path): path for path in release.needs}
    built_in = {module_name(path) for path in _lines(release, "modules.builtin")}
    wanted = [name.removesuffix(".ko").replace("-", "_") for name in names]
    unknown = sorted({name for name in wanted if name not in known and name not in built_in})
    if unknown:
        raise UsageError(
            "the UML kernel has no such module", where=", ".join(unknown), expected=f"one of {release.directory}"
        )
    ahead, chosen = [known[name] for name in wanted if name in known], set[str]()
    while ahead:
        path = ahead.pop()
        if path not in chosen:
            chosen.add(path)
            ahead += release.needs.get(path, ())
    return frozenset(chosen)


def _lines(release: _Release, name: str) -> list[str]:
    return path_text(release.read(name)).splitlines() if name in release.files else []


def _entries(release: _Release, chosen: frozenset[str] | None) -> Iterator[Entry]:
    top = f"{GUEST_DIRECTORY}/{release.name}"
    for name in release.files:
        if chosen is None or name in chosen or name not in release.needs:
            entry = host_file(f"{top}/{name}", os.path.join(release.directory, name))
            if chosen is not None and name in _CUT:
                entry = _replaced(entry, _CUT[name](release.read(name), chosen))
            yield entry


def _replaced(entry: Entry, data: bytes) -> Entry:
    old = entry.inode
    return Entry(entry.path, Inode(old.type, old.mode, mtime_ns=old.mtime_ns, contents=Text(data)))


def _cut_lines(data: bytes, keep: Callable[[list[str]], bool]) -> bytes:
    lines = path_text(data).splitlines(keepends=True)
    return path_bytes("".join(line for line in lines if line.startswith("#") or keep(line.split())))


def _cut_paths(data: bytes, chosen: frozenset[str]) -> bytes:
    return _cut_lines(data, lambda words: bool(words) and words[0].rstrip(":") in chosen)


def _cut_named(field: int) -> Callable[[bytes, frozenset[str]], bytes]:
    def cut(data: bytes, chosen: frozenset[str]) -> bytes:
        names = {module_name(path) for path in chosen}
        return _cut_lines(data, lambda words: len(words) > field and words[field].replace("-", "_") in names)

    return cut


def _cut_index(data: bytes, kept: frozenset[bytes]) -> bytes:
    """Keep the values of a binary index whose first word, up to a colon, is in `kept`."""
    index = read_index(data, where="modules.*.bin")
    left = {
        key: tuple(value for value in values if value[1].partition(b":")[0] in kept) for key, values in index.items()
    }
    return write_index({key: values for key, values in left.items() if values})


def _cut_dep_index(data: bytes, chosen: frozenset[str]) -> bytes:
    return _cut_index(data, frozenset(path_bytes(path) for path in chosen))


def _cut_name_index(data: bytes, chosen: frozenset[str]) -> bytes:
    return _cut_index(data, frozenset(path_bytes(module_name(path)) for path in chosen))


_CUT: Mapping[str, Callable[[bytes, frozenset[str]], bytes]] = {
    _DEP: _cut_paths,
    "modules.dep.bin": _cut_dep_index,
    "modules.order": _cut_paths,
    "modules.alias": _cut_named(2),
    "modules.alias.bin": _cut_name_index,
    "modules.symbols": _cut_named(2),
    "modules.symbols.bin": _cut_name_index,
    "modules.softdep": _cut_named(1),
    "modules.devname": _cut_named(0),
}
"""What is done to each index of a choice; all others tell of what is built in."""
