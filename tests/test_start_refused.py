"""`umldisk start` where it must not start anything: one clear line, the right exit code, nothing changed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.kit import model
from tests.kit.commands import holding
from tests.kit.peers import needs
from tests.kit.sites import NAME, SMALL, BuiltSite
from umldisk.config.site import Site
from umldisk.cow import journal
from umldisk.cow.creating import create
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import read_header
from umldisk.cow.journal import HeaderJournal
from umldisk.guest.state import RunDisk
from umldisk.ops.running import preflight, starting
from umldisk.ops.running.headers import finish_headers, settle_headers
from umldisk.system.files import open_disk
from umldisk.system.process import find_program

pytestmark = needs("linux", "bwrap", "setarch", "mke2fs", "busybox")


@pytest.fixture(scope="module")
def built() -> Iterator[BuiltSite]:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        yield BuiltSite(Path(directory)).build()


@pytest.fixture
def site(built: BuiltSite) -> Iterator[BuiltSite]:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        shutil.copytree(built.directory, directory, dirs_exist_ok=True, copy_function=_sparse_copy)
        for name in ("root", "var", "home"):
            create(f"{directory}/guests/{NAME}/{name}_cow", f"{directory}/guests/{NAME}/{name}_fs")
        site = BuiltSite(Path(directory))
        yield site
        site.end()


def _sparse_copy(source: str, target: str) -> None:
    with open(source, "rb") as old, open(target, "wb") as new:
        os.truncate(new.fileno(), os.fstat(old.fileno()).st_size)
        end = 0
        while True:
            try:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.copy_file_range(old.fileno(), new.fileno(), end - start, start, start)
    shutil.copystat(source, target)


def _refused(site: BuiltSite, *words: str) -> tuple[int, str]:
    before = _fingerprint(site.guest)
    said = site("start", *words, NAME)
    assert said.out == ""
    assert _fingerprint(site.guest) == before
    assert not (site.run / "state.json").exists()
    line, *others = [line for line in said.err.splitlines() if not line.startswith("hint: ")]
    assert others == []
    assert line.startswith("umldisk: error: ")
    return said.code, line


def _fingerprint(directory: Path) -> list[tuple[str, int, int, int]]:
    found = [(path, path.lstat()) for path in sorted(directory.iterdir())]
    return [(path.name, status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found]


def test_the_copied_site_would_start(site: BuiltSite) -> None:
    said = site("start", "--dry-run", "--json", NAME)
    assert said.code == 0, said
    report = said.json
    assert report["jailed"]
    assert report["argv"][:2] == ["setarch", "-R"]
    assert report["argv"][2] == find_program("bwrap")
    assert f"ubd0={site.guest}/root_cow,{site.guest}/root_fs" in report["argv"]
    assert not site.run.exists()


def test_a_guest_that_is_not_there(site: BuiltSite) -> None:
    said = site("start", "mirage")
    assert said.code == 66
    assert "umldisk build mirage" in said.err


def test_a_base_that_was_touched(site: BuiltSite) -> None:
    os.utime(site.guest / "var_fs", (1, 1))
    code, line = _refused(site)
    assert code == 65
    assert "var_fs" in line


def test_a_base_that_was_changed_behind_its_mtime(site: BuiltSite) -> None:
    path = site.guest / "home_fs"
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"intruder")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, line = _refused(site)
    assert code == 65
    assert "home is not the one that was built" in line


def test_a_base_that_was_merged_into_is_vouched_for_by_its_cow_file(site: BuiltSite) -> None:
    (site.guest / "var_fs").chmod(0o600)
    with (site.guest / "var_fs").open("r+b") as file:
        file.seek(40 << 20)
        file.write(b"merged")
    (site.guest / "var_cow").unlink()
    create(site.guest / "var_cow", site.guest / "var_fs")
    assert site("start", "--dry-run", NAME).code == 0


def test_a_cow_file_on_a_cow_file(site: BuiltSite) -> None:
    os.rename(site.guest / "root_fs", site.guest / "real_fs")
    create(site.guest / "root_fs", site.guest / "real_fs")
    code, line = _refused(site)
    assert code == 65
    assert "root_fs" in line


def test_a_damaged_cow_file(site: BuiltSite) -> None:
    with (site.guest / "home_cow").open("r+b") as file:
        file.truncate(5000)
        file.seek(4096)
        file.write(b"\xff" * 100)
    assert _refused(site)[0] == 65


def test_a_page_that_the_kernel_would_mix_up(site: BuiltSite) -> None:
    """UML reads whole pages from one file: of a page with one changed sector it would take all from the COW file."""
    model.write_cow(site.guest / "var_cow", site.guest / "var_fs", {801: b"\1" * 512})
    code, line = _refused(site)
    assert code == 65
    assert "1 page holds" in line
    assert "var_cow" in line
    assert site("align", site.guest / "var_cow").code == 0
    assert site("start", "--dry-run", NAME).code == 0


@pytest.mark.parametrize("name", ["root_cow", "tmp_fs"])
def test_a_disk_that_somebody_has(site: BuiltSite, name: str) -> None:
    with holding(site.guest / name) as pid:
        code, line = _refused(site)
    assert code == 75
    assert f"by PID {pid}" in line


def test_a_missing_disk(site: BuiltSite) -> None:
    (site.guest / "swap_fs").unlink()
    code, line = _refused(site)
    assert code == 66
    assert "swap_fs" in line


def test_more_memory_than_there_is(site: BuiltSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_bytes", lambda: (64 << 20) - 1)
    code, line = _refused(site)
    assert code == 74
    assert "too little memory for the guest (expected 64 MiB, found 63 MiB)" in line


def test_a_full_file_system(site: BuiltSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LEAST_FREE_BYTES", 1 << 60)
    code, line = _refused(site)
    assert code == 74
    assert "too little room" in line


def test_no_such_kernel(site: BuiltSite) -> None:
    (site.directory / "umldisk.toml").write_text(SMALL + 'kernel = "/no/such/kernel"\n')
    code, line = _refused(site)
    assert code == 66
    assert "/no/such/kernel" in line


def test_a_kernel_that_is_a_text(site: BuiltSite) -> None:
    kernel = site.directory / "kernel"
    kernel.write_text("#!/bin/sh\n")
    kernel.chmod(0o755)
    (site.directory / "umldisk.toml").write_text(SMALL + 'kernel = "./kernel"\n')
    assert _refused(site)[0] == 65


def test_no_bubblewrap(site: BuiltSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("linux", "setarch", "ldd", "bash", "sh", "mke2fs"):
        (tmp_path / program).symlink_to(find_program(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("umldisk.system.process._SYSTEM_DIRECTORIES", str(tmp_path))
    said = site("start", NAME)
    assert said.code == 66
    assert "--no-jail" in said.err
    assert site("start", "--no-jail", "--dry-run", NAME).code == 0


def test_a_path_that_the_ubd_option_cannot_carry(built: BuiltSite) -> None:
    with tempfile.TemporaryDirectory(prefix="umldisk,") as directory:
        shutil.copytree(built.directory, directory, dirs_exist_ok=True, copy_function=_sparse_copy)
        code, line = _refused(BuiltSite(Path(directory)))
    assert code == 65
    assert "ubd option" in line


def test_a_drive_that_there_is_not(site: BuiltSite) -> None:
    code, line = _refused(site, "--discard", "attic")
    assert code == 2
    assert "attic" in line


@pytest.mark.parametrize("words", [("--foreground", "--json"), ("--foreground", "--dry-run")])
def test_words_that_do_not_go_together(site: BuiltSite, words: tuple[str, str]) -> None:
    assert _refused(site, *words)[0] == 2


def test_a_state_that_cannot_be_read(site: BuiltSite) -> None:
    site.run.mkdir(parents=True)
    (site.run / "state.json").write_text("{")
    said = site("status", NAME)
    assert said.code in (1, 65)
    assert "state.json" in said.out + said.err
    (site.run / "state.json").unlink()


def test_the_header_keeps_its_layout_and_gets_the_path_that_uml_is_told(site: BuiltSite) -> None:
    base, cow = site.guest / "root_fs", site.guest / "root_cow"
    other = site.directory / "link_fs"
    other.symlink_to(base)
    cow.unlink()
    create(cow, other, dialect=Dialect.V1_BIG)
    settle_headers([RunDisk("root", 0, str(cow), str(base))])
    with open_disk(cow) as disk:
        header = read_header(disk)
    assert header.dialect is Dialect.V1_BIG
    assert header.backing_path == os.fsencode(base)


def test_a_header_whose_rewriting_was_cut_off_is_finished(site: BuiltSite) -> None:
    base, cow = site.guest / "root_fs", site.guest / "root_cow"
    other = site.directory / "link_fs"
    other.symlink_to(base)
    new = _header(cow)
    cow.unlink()
    create(cow, other)
    journal.write(str(cow), HeaderJournal(_header(cow).hex(), new.hex()))
    finish_headers(Site(str(site.directory)).guest(NAME))
    assert cow.read_bytes().startswith(new)
    assert not os.path.lexists(journal.path_for(str(cow)))
    assert site("start", "--dry-run", NAME).code == 0


def _header(cow: Path) -> bytes:
    with open_disk(cow) as disk:
        return read_header(disk).raw


def test_what_is_made_anew_may_be_damaged(site: BuiltSite) -> None:
    policies = "".join(f'drives.{name}.policy = "rebuild"\n' for name in ("home", "tmp"))
    (site.directory / "umldisk.toml").write_text(SMALL + policies)
    (site.guest / "home_cow").write_bytes(b"OOOM and nonsense")
    (site.guest / "tmp_fs").unlink()
    assert site("start", "--dry-run", NAME).code == 0


def test_without_a_jail_the_memory_is_where_programs_may_run(site: BuiltSite, monkeypatch: pytest.MonkeyPatch) -> None:
    places, statvfs = ("/dev/shm", "/tmp"), os.statvfs
    closed: set[str] = set()

    def look(path: str) -> object:
        return SimpleNamespace(f_flag=os.ST_NOEXEC) if path in closed else statvfs(path)

    monkeypatch.setattr(os, "statvfs", look)
    for place in places:
        assert starting._temp_directory() == place
        closed.add(place)
    code, line = _refused(site, "--no-jail")
    assert code == 74
    assert "no place from which it may be executed" in line
