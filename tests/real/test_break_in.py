"""The whole of it, with a real guest.

It is built, works for some days, is recorded every night while it runs, is broken into, is looked at, is brought back
by one command, and starts clean.
"""

import contextlib
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit import break_in
from tests.kit.break_in import BREAK_IN, CRON, DIGESTS, KEY, LOG, LOOK, SHELL, TROJAN, Look, day, read_look
from tests.kit.oracle import run_tool
from tests.kit.peers import needs
from tests.kit.sites import NAME, WAIT_SECONDS, BuiltSite

pytestmark = [
    needs("linux", "bwrap", "setarch", "mke2fs", "e2fsck", "debugfs", "busybox", "uml_moo"),
    pytest.mark.real,
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

NIGHTS = 3
_TOLD = {
    SHELL: ("privileges", "added", ["setuid"]),
    TROJAN: ("programs", "changed", ["time put back"]),
    KEY: ("ways in", "added", []),
    CRON: ("started", "added", []),
    LOG: ("logs", "removed", []),
}
"""What must be said of each thing that the intruder did, in this order."""


@pytest.fixture
def site() -> Iterator[BuiltSite]:
    # The kernel's command line and the path of a socket are short: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        site = BuiltSite(Path(directory)).build()
        yield site
        site.end()


def test_a_guest_comes_back_from_a_break_in(site: BuiltSite) -> None:
    _start(site)
    clean = read_look(site.shell(LOOK))
    assert clean == Look((), (), clean.program_time, _built(site, TROJAN)["sha256"])
    nights = [_day_and_night(site, number) for number in range(1, NIGHTS + 1)]
    assert len(set(nights)) == NIGHTS
    assert site("changes", NAME).code == 0

    site.shell(BREAK_IN)
    broken = read_look(site.shell(LOOK))
    assert broken == Look((SHELL, CRON, KEY), (SHELL,), clean.program_time, broken.program_sha256)
    assert broken.program_sha256 != clean.program_sha256
    seen = _require_told(site, NAME)
    assert seen["pause_seconds"] > 0
    site.good("stop", NAME)

    restored = site.good("restore", "--json", NAME).json
    assert {drive["name"]: drive["checkpoint"] for drive in restored["drives"]}["var"] == NIGHTS
    assert site("changes", NAME).code == 0
    kept = Path(restored["evidence"])
    assert _require_told(site, kept)["changes"] == seen["changes"]
    _require_evidence(site, kept, broken)

    _start(site)
    assert read_look(site.shell(LOOK)) == Look((LOG,), (), clean.program_time, clean.program_sha256)
    assert site.shell(DIGESTS) == nights[-1]
    assert site.shell("tail -n 1 /var/log/access.log").endswith(f"day {NIGHTS} 18:00 request 40\n")
    assert site.good("drill", "--json", NAME).json["passed"] is True
    site.good("stop", NAME)
    _require_clean(site)
    site.good("checkpoint", "verify", NAME)


def _start(site: BuiltSite) -> None:
    site.good("start", NAME)
    site.good("wait", "--timeout", str(WAIT_SECONDS), NAME)


def _day_and_night(site: BuiltSite, number: int) -> str:
    """Let the guest work and record it while it runs; return what its files hold then."""
    site.shell(day(number))
    held = site.shell(DIGESTS)
    report = site.good("checkpoint", "take", "--json", NAME).json
    assert report["consistency"] == "journal"
    assert [drive["number"] for drive in report["drives"]] == [number]
    return held


def _built(site: BuiltSite, path: str) -> dict[str, Any]:
    """Return the manifest's row of a file."""
    rows = json.loads((site.guest / "manifest.json").read_bytes())["files"]
    (row,) = (row for row in rows if row["path"] == path)
    assert isinstance(row, dict)
    return row


def _require_told(site: BuiltSite, target: str | Path) -> Any:
    """Every single thing is named, worst first, and nothing that was not done; return the report."""
    said = site("changes", "--json", target)
    assert (said.code, said.err) == (1, "")
    changes = said.json["changes"]
    told = {one["path"]: (one["concern"], one["kind"], one["marks"]) for one in changes if one["path"] in _TOLD}
    assert list(told.items()) == list(_TOLD.items())
    around = {str(parent) for path in _TOLD for parent in Path(path).parents}
    assert {one["path"] for one in changes} - _TOLD.keys() <= around
    text = site("changes", target).out
    assert all(f"  {path}  " in text for path in _TOLD)
    return said.json


def _require_evidence(site: BuiltSite, kept: Path, broken: Look) -> None:
    """Nothing of the evidence is missing or was changed, and what the intruder left can be read out of it."""
    summed = run_tool("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=kept)
    assert summed.returncode == 0, summed.stdout
    names = {path.name for path in kept.iterdir()}
    texts = {"evidence.json", "records.jsonl", "SHA256SUMS"}
    assert names == texts | {"root_cow", "var_cow", "var_fs", "home_cow", "tmp_fs", "swap_fs"}
    assert {line.split("  ")[1] for line in (kept / "SHA256SUMS").read_text().splitlines()} == names - {"SHA256SUMS"}
    with _merged(site, kept / "root_cow", site.guest / "root_fs") as root:
        assert hashlib.sha256(_cat(root, TROJAN)).hexdigest() == broken.program_sha256
        assert _cat(root, TROJAN).endswith(f"{break_in.TROJAN_TAIL}\n".encode())
        assert _cat(root, KEY) == f"{break_in.KEY_LINE}\n".encode()
    with _merged(site, kept / "home_cow", site.guest / "home_fs") as home:
        assert "Mode:  04755" in _debugfs(home, f"stat {SHELL.removeprefix('/home')}").decode()
    with _merged(site, kept / "var_cow", kept / "var_fs") as var:
        assert _cat(var, CRON.removeprefix("/var")) == f"{break_in.CRON_LINE}\n".encode()
        assert b"access.log" not in _debugfs(var, "ls -p /log")


@contextlib.contextmanager
def _merged(site: BuiltSite, cow: Path, base: Path) -> Iterator[Path]:
    """Give an image of a COW file over its base, made by uml_moo, which knows nothing of evidence."""
    image = site.directory / f"{cow.name}.image"
    moo = run_tool("uml_moo", "-b", base, cow, image)
    assert moo.returncode == 0, moo.stderr
    yield image
    image.unlink()


def _debugfs(image: Path, request: str) -> bytes:
    found = run_tool("/sbin/debugfs", "-R", request, image)
    assert found.returncode == 0, found.stderr
    return found.stdout


def _cat(image: Path, path: str) -> bytes:
    return _debugfs(image, f"cat {path}")


def _require_clean(site: BuiltSite) -> None:
    """Every disk with files is clean as it is, with nothing left to repair or to replay."""
    for drive in ("root", "var", "home"):
        with _merged(site, site.guest / f"{drive}_cow", site.guest / f"{drive}_fs") as image:
            _require_sound(image)
    _require_sound(site.guest / "tmp_fs")


def _require_sound(image: Path) -> None:
    checked = subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
