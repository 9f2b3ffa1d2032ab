"""`umldisk checkpoint` and `umldisk restore` as people give them, the checkpoints in a bucket of a real S3 service."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.commands import FIRST_NIGHT, LAYOUT, Commands
from tests.kit.restorable import VAR, Broken, Clock, SmallerSite
from tests.kit.s3 import BUCKET, Service, serving
from tests.kit.tampering import rewrite_from
from umldisk.checkpoint.catalog import CATALOG_NAME
from umldisk.checkpoint.object_store import ObjectStore
from umldisk.checkpoint.store import record_key

pytestmark = pytest.mark.real

DATA, NO_INPUT, HISTORY = 65, 66, 76


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def location(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a prefix of the test's own, with the surroundings by which every command finds the service."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (service.environment() | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def bucket(location: str) -> ObjectStore:
    """Return the store as somebody sees it who can write to the bucket without umldisk."""
    return ObjectStore(location)


def host(directory: Path, location: str) -> Path:
    """Make a site whose guest's checkpoints are in the bucket."""
    directory.mkdir()
    (directory / "umldisk.toml").write_text(f'{LAYOUT}store = "{location}"\n')
    return directory


@pytest.fixture
def umldisk(tmp_path: Path, location: str) -> Commands:
    """Return a site of whose guest two nights were recorded by the command line, before it was broken into."""
    site = host(tmp_path / "site", location)
    broken = Broken(SmallerSite(str(site)), store=ObjectStore(location), clock=Clock(FIRST_NIGHT)).make()
    broken.night(8, 9, 10, 1500)
    umldisk = Commands(site, broken)
    broken.nights[2] = broken.write(VAR, 8, 64, 65, word="night 2")
    said = umldisk("checkpoint", "take", "--reason", "nightly", "blackdance")
    assert (said.code, said.err) == (0, "")
    broken.break_in()
    return umldisk


def keys(bucket: ObjectStore, prefix: str) -> list[str]:
    return [found.key for found in bucket.list(prefix)]


def assert_exported(umldisk: Commands, night: int) -> None:
    out = umldisk.directory / f"night{night}"
    said = umldisk("checkpoint", "export", "blackdance", str(night), out)
    assert (said.code, said.err) == (0, "")
    assert out.read_bytes() == umldisk.broken.nights[night]


def test_a_night_is_recorded_in_the_bucket_alone(umldisk: Commands, bucket: ObjectStore) -> None:
    assert record_key("blackdance", 2) in keys(bucket, "guests/blackdance/")
    assert not umldisk.store.exists()
    first, second = umldisk("checkpoint", "list", "--json", "blackdance").json["checkpoints"]
    assert (first["number"], second["number"], second["reason"]) == (1, 2, "nightly")
    assert 0 < second["stored_bytes"] < first["stored_bytes"]
    before = keys(bucket, "")
    assert umldisk("checkpoint", "take", "-n", "blackdance").code == 0
    assert keys(bucket, "") == before
    assert bucket._bucket.modified("leases/") == {}


def test_every_night_is_exported(umldisk: Commands) -> None:
    for night in umldisk.broken.nights:
        assert_exported(umldisk, night)


def test_damage_in_the_bucket_is_named_and_keeps_a_night_from_going_out(
    umldisk: Commands, bucket: ObjectStore, location: str
) -> None:
    sound = umldisk("checkpoint", "verify", "--all")
    assert (sound.code, sound.err) == (0, "")
    assert sound.lines[1].startswith(f"{location}: nothing wrong (2 checkpoints, ")
    chunk = max(bucket.list("chunks/"), key=lambda found: found.size_bytes).key
    whole = bucket.get(chunk)
    middle = len(whole) // 2
    bucket._bucket.put(chunk, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    said = umldisk("checkpoint", "verify", "--all")
    assert (said.code, said.err) == (DATA, "")
    (told,) = (line for line in said.lines if line.startswith("damaged: "))
    assert told.startswith(f"damaged: {chunk}: ")
    hurt = [row["number"] for row in umldisk("checkpoint", "list", "--json").json["checkpoints"] if row["damage"]]
    assert hurt
    refused = umldisk("checkpoint", "export", "blackdance", str(hurt[0]), umldisk.directory / "out")
    assert refused.code == DATA
    assert chunk in refused.err
    assert not (umldisk.directory / "out").exists()
    bucket._bucket.put(chunk, whole)
    assert umldisk("checkpoint", "verify", "--all").code == 0
    assert_exported(umldisk, hurt[0])


def test_a_chunk_that_is_gone_is_named(umldisk: Commands, bucket: ObjectStore) -> None:
    chunk = keys(bucket, "chunks/")[0]
    bucket._bucket.delete(chunk)
    said = umldisk("checkpoint", "verify", "--all", "blackdance")
    assert said.code == DATA
    assert f"missing: {chunk}: it is not in the store" in said.lines


def test_pruning_frees_what_only_old_nights_need(umldisk: Commands, bucket: ObjectStore) -> None:
    before = set(keys(bucket, "chunks/"))
    said = umldisk("checkpoint", "prune", "--keep-last", "1", "--gc", "blackdance")
    assert (said.code, said.err) == (0, "")
    after = set(keys(bucket, "chunks/"))
    assert after < before
    assert umldisk("checkpoint", "export", "blackdance", "1", umldisk.directory / "gone").code == NO_INPUT
    assert_exported(umldisk, 2)
    assert umldisk("checkpoint", "verify", "--all").code == 0


def test_an_anchor_finds_a_history_that_was_rewritten_in_the_bucket(umldisk: Commands, bucket: ObjectStore) -> None:
    anchor = umldisk("checkpoint", "anchor", "blackdance").out.strip()
    assert umldisk("checkpoint", "verify", "--anchor", anchor).code == 0
    names = {record_key("web", n): record_key("blackdance", n) for n in (1, 2, 3)}  # the third says that it is verified
    data = {web: bucket.get(name) for web, name in names.items()}
    rewrite_from(data, 1)
    for web, name in names.items():
        bucket._bucket.put(name, data[web])
    noticed = umldisk("checkpoint", "verify")
    assert (noticed.code, noticed.out) == (HISTORY, "")
    (umldisk.directory / CATALOG_NAME).unlink()
    assert umldisk("checkpoint", "rebuild").code == 0
    assert umldisk("checkpoint", "verify", "-n").code == 0
    found = umldisk("checkpoint", "verify", "--anchor", anchor)
    assert found.code == HISTORY
    assert "is not the one that was anchored" in found.err


def test_another_host_has_everything_from_the_bucket_alone(umldisk: Commands, tmp_path: Path, location: str) -> None:
    umldisk("checkpoint", "tag", "blackdance", "gold", "1")
    rows = umldisk("checkpoint", "list", "-a", "--json").json["checkpoints"]
    other = Commands(host(tmp_path / "other", location), umldisk.broken)
    said = other("checkpoint", "rebuild")
    assert said.lines == [f"{other.directory}/{CATALOG_NAME}: made anew from {location}", "  blackdance: 3 records"]
    assert other("checkpoint", "list", "-a", "--json").json["checkpoints"] == rows
    for night in umldisk.broken.nights:
        assert_exported(other, night)


@pytest.mark.parametrize("night", [1, 2])
def test_a_guest_comes_back_from_the_bucket(night: int, umldisk: Commands) -> None:
    assert umldisk.broken.seen(VAR) not in umldisk.broken.nights.values()
    said = umldisk("restore", "blackdance", str(night))
    assert (said.code, said.err) == (0, "")
    assert umldisk.broken.seen(VAR) == umldisk.broken.nights[night]
