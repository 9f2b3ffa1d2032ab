"""Kernel modules: the choice with what it needs, and indexes that tell of nothing else."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.peers import needs
from umldisk.build.files import hostfile
from umldisk.build.files.hostfile import host_file
from umldisk.build.files.module_index import Index, Values, read_index, write_index
from umldisk.build.files.modules import HOST_DIRECTORY, module_entries, module_name
from umldisk.build.tree import Entry, FileType
from umldisk.errors import DataError, NoInputError, UsageError

_RELEASE = "6.1.0-test"
_TOP = f"/lib/modules/{_RELEASE}"
_TIME_NS = 1_600_000_000_000_000_001
_A, _B, _C, _D = (f"kernel/{name}.ko" for name in ("fs/a-one", "lib/b", "lib/c", "net/d"))
_DEP_INDEX: Index = {
    b"a_one": ((0, f"{_A}: {_B} {_C}".encode()),),
    b"b": ((1, f"{_B}: {_C}".encode()),),
    b"c": ((2, f"{_C}:".encode()),),
    b"d": ((3, f"{_D}: {_C}".encode()),),
}
_ALIAS_INDEX: Index = {b"fs_a": ((0, b"a_one"),), b"fs_*": ((0, b"a_one"), (3, b"d")), b"net_d": ((3, b"d"),)}
_TEXTS = {
    "modules.dep": f"{_A}: {_B} {_C}\n{_B}: {_C}\n{_C}:\n{_D}: {_C}\n",
    "modules.order": f"{_D}\n{_A}\n{_B}\n{_C}\n",
    "modules.alias": "# Aliases.\nalias fs-a a_one\nalias fs-* d\nalias net-d d\n",
    "modules.symbols": "# Symbols.\nalias symbol:c_do c\nalias symbol:d_do d\n",
    "modules.softdep": "# Soft.\nsoftdep d pre: c\nsoftdep a-one post: d\n",
    "modules.devname": "# Nodes.\nd net/d c10:200\n",
    "modules.builtin": "kernel/fs/ext4.ko\n",
}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    release = tmp_path / "modules" / _RELEASE
    for path in (_A, _B, _C, _D):
        (release / path).parent.mkdir(parents=True, exist_ok=True)
        (release / path).write_bytes(b"\x7fELF " + path.encode())
    for name, text in _TEXTS.items():
        (release / name).write_text(text)
    (release / "modules.dep.bin").write_bytes(write_index(_DEP_INDEX))
    (release / "modules.alias.bin").write_bytes(write_index(_ALIAS_INDEX))
    (release / "build").symlink_to("/usr/src")
    for made in release.rglob("*"):
        os.utime(made, ns=(_TIME_NS, _TIME_NS), follow_symlinks=False)
    return tmp_path / "modules"


def _files(names: tuple[str, ...] | None, directory: Path) -> dict[str, bytes]:
    return {e.path: _bytes(e) for e in module_entries(names, directory=str(directory))}


def _bytes(entry: Entry) -> bytes:
    return b"".join(data for _, data in entry.inode.contents.pieces())


def test_none_are_taken_without_looking(tmp_path: Path) -> None:
    assert list(module_entries((), directory=str(tmp_path / "missing"))) == []


def test_all_are_taken_as_they_are(modules: Path) -> None:
    release = modules / _RELEASE
    expected = {
        f"{_TOP}/{path.relative_to(release)}": path.read_bytes()
        for path in release.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert _files(None, modules) == expected


def test_a_choice_brings_what_it_needs(modules: Path) -> None:
    found = {path.removeprefix(f"{_TOP}/") for path in _files(("b",), modules) if path.endswith(".ko")}
    assert found == {_B, _C}


@pytest.mark.parametrize("spelling", ["a-one", "a_one", "a_one.ko"])
def test_indexes_tell_of_the_choice_alone(spelling: str, modules: Path) -> None:
    files = _files((spelling,), modules)
    texts = {path.removeprefix(f"{_TOP}/"): data for path, data in files.items() if not path.endswith(".ko")}
    assert texts.pop("modules.dep").decode() == f"{_A}: {_B} {_C}\n{_B}: {_C}\n{_C}:\n"
    assert texts.pop("modules.order").decode() == f"{_A}\n{_B}\n{_C}\n"
    assert texts.pop("modules.alias").decode() == "# Aliases.\nalias fs-a a_one\n"
    assert texts.pop("modules.symbols").decode() == "# Symbols.\nalias symbol:c_do c\n"
    assert texts.pop("modules.softdep").decode() == "# Soft.\nsoftdep a-one post: d\n"
    assert texts.pop("modules.devname").decode() == "# Nodes.\n"
    assert texts.pop("modules.builtin").decode() == _TEXTS["modules.builtin"]
    dependencies = read_index(texts.pop("modules.dep.bin"), where="")
    assert dependencies == {key: values for key, values in _DEP_INDEX.items() if key != b"d"}
    aliases = read_index(texts.pop("modules.alias.bin"), where="")
    assert aliases == {b"fs_a": ((0, b"a_one"),), b"fs_*": ((0, b"a_one"),)}
    assert texts == {}


def test_times_and_owners_are_settled(modules: Path) -> None:
    inodes = [entry.inode for entry in module_entries(("d",), directory=str(modules))]
    assert {(i.type, i.mode, i.uid, i.gid, i.mtime_ns) for i in inodes} == {(FileType.FILE, 0o644, 0, 0, _TIME_NS)}


def test_what_is_built_in_is_no_mistake(modules: Path) -> None:
    assert not [path for path in _files(("ext4",), modules) if path.endswith(".ko")]


def test_unknown_modules_are_all_named(modules: Path) -> None:
    with pytest.raises(UsageError, match=r"no such module.*nope, other"):
        list(module_entries(("other", "b", "nope"), directory=str(modules)))


def test_a_host_without_modules_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoInputError) as refused:
        list(module_entries(("b",), directory=str(tmp_path)))
    assert "user-mode-linux" in (refused.value.hint or "")


@pytest.mark.parametrize(("path", "name"), [("kernel/x/a-b.ko", "a_b"), ("c.ko.xz", "c"), ("d", "d")])
def test_the_name_of_a_module(path: str, name: str) -> None:
    assert module_name(path) == name


_KEYS = st.binary(max_size=6).map(lambda key: key.replace(b"\0", b"a"))
_VALUES: st.SearchStrategy[Values] = st.lists(st.tuples(st.integers(0, 2**32 - 1), _KEYS), min_size=1).map(tuple)


@given(st.dictionaries(_KEYS, _VALUES))
def test_an_index_is_read_as_it_was_written(index: Index) -> None:
    assert read_index(write_index(index), where="") == index


def test_an_index_is_laid_out_as_its_picture_says() -> None:
    written = write_index({b"ab": ((7, b"x"),), b"ad": ((8, b""), (9, b"y"))})
    leaf_b = b"\0\0\0\1\0\0\0\7x\0"
    leaf_d = b"\0\0\0\2\0\0\0\10\0\0\0\0\11y\0"
    inner = b"bd" + (0x4000_000C).to_bytes(4, "big") + bytes(4) + (0x4000_0016).to_bytes(4, "big")
    root = b"aa" + (0x2000_0025).to_bytes(4, "big")
    assert written == bytes.fromhex("b007f457 00020001 20000033") + leaf_b + leaf_d + inner + root


_GOOD = write_index(_ALIAS_INDEX)


@pytest.mark.parametrize(
    "data",
    [
        *(_GOOD[:size] for size in range(len(_GOOD) - 6)),
        b"\x7f" + _GOOD[1:],
        _GOOD[:4] + b"\0\3" + _GOOD[6:],
        _GOOD[:8] + b"\x20\0\0\x0c" + b"aa\x20\0\0\x0c",
        _GOOD[:8] + b"\x80\0\0\x0cabc",
        _GOOD[:8] + b"\x4f\xff\xff\xff",
    ],
)
def test_a_damaged_index_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="index of modules"):
        read_index(data, where="x")


@pytest.fixture
def real() -> Path:
    releases = sorted(Path(HOST_DIRECTORY).glob("*/modules.dep"))
    assert releases, "the package of the kernel has its modules here"
    return releases[-1].parent


@needs("linux")
@pytest.mark.parametrize("name", ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin"])
def test_the_kernels_own_indexes_come_out_to_the_byte(name: str, real: Path) -> None:
    data = (real / name).read_bytes()
    index = read_index(data, where=name)
    assert write_index(index) == data
    assert len(index) > 50


@needs("linux")
def test_a_real_choice_is_complete(real: Path) -> None:
    files = {e.path.partition(f"/{real.name}/")[2]: e for e in module_entries(("nfs", "loop"))}
    modules = {path for path in files if path.endswith(".ko")}
    assert {module_name(path) for path in modules} >= {"nfs", "loop", "sunrpc", "lockd"}
    index = read_index(_bytes(files["modules.dep.bin"]), where="")
    listed = {text.partition(b":")[0].decode() for values in index.values() for _, text in values}
    needed = {word.decode() for values in index.values() for _, text in values for word in text.split(b":")[1].split()}
    assert listed == modules
    assert needed <= modules
    assert _bytes(files[min(modules)]) == (real / min(modules)).read_bytes()


def test_a_file_of_the_host_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostfile, "CHUNK_BYTES", 4)
    source = tmp_path / "x"
    source.write_bytes(b"0123456789")
    entry = host_file("/x", str(source), 0o755)
    assert list(entry.inode.contents.pieces()) == [(0, b"0123"), (4, b"4567"), (8, b"89")]
    assert (entry.inode.contents.size_bytes, entry.inode.mode) == (10, 0o755)
    source.write_bytes(b"0123456789 and more")
    assert b"".join(data for _, data in entry.inode.contents.pieces()) == b"0123456789"
    with pytest.raises(NoInputError):
        host_file("/y", str(tmp_path / "y"))
