"""The store in a bucket, against a real S3 service: the common promises, bad lines, refusals, and leases."""

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.cutting import proxied
from tests.kit.s3 import BUCKET, OTHER_BUCKET, Service, serving
from tests.kit.store_contract import Home, StoreContract, chunk
from umldisk.checkpoint import leases
from umldisk.checkpoint.leases import Claim, Kind, Times
from umldisk.checkpoint.object_store import ObjectStore
from umldisk.checkpoint.store import base_key, index_key, record_key
from umldisk.checkpoint.stores import open_store
from umldisk.errors import BusyError, NoInputError, StorageError, UsageError

pytestmark = pytest.mark.real

INDEX, RECORD = index_key("web", 1), record_key("web", 1)
SHORT = Times(expiry=2, trust=1, refresh=0.2, contest=0.1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def home(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (service.environment() | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    return Home(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def location(home: Home) -> str:
    return home.new()


class TestObjects(StoreContract):
    examples = 15

    @pytest.fixture
    def home(self, home: Home) -> Home:
        return home


def test_objects_lie_where_the_keys_say(location: str, service: Service) -> None:
    store = open_store(location + "/")
    key, data = chunk(1)
    store.put(key, data)
    store.flush()
    assert (service.directory / location.removeprefix("s3://") / key).read_bytes() == data


@pytest.mark.usefixtures("home")
def test_a_bucket_without_prefix(service: Service) -> None:
    store = open_store(f"s3://{OTHER_BUCKET}")
    store.put(INDEX, b"index")
    assert [one.key for one in store.list("")] == [INDEX]
    assert (service.directory / OTHER_BUCKET / INDEX).read_bytes() == b"index"


@pytest.mark.usefixtures("home")
def test_a_location_without_bucket_is_refused() -> None:
    with pytest.raises(UsageError, match="no bucket"):
        open_store("s3:///prefix")


def test_foreign_objects_are_left_alone(location: str) -> None:
    store = open_store(location)
    store.put(INDEX, b"index")
    ObjectStore(location)._bucket.put("guests/web/notes.txt", b"mine")
    assert [one.key for one in open_store(location).list("")] == [INDEX]


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_chunks_that_are_there_cost_hardly_any_request(location: str, service: Service) -> None:
    store = open_store(location)
    for number in range(200):
        store.put(*chunk(number))
    store.flush()
    with proxied(service.address) as proxy:
        watched = ObjectStore(location, environment=service.environment(address=proxy.address))
        with watched.writing("web"):
            before = len(proxy.requests)
            assert all(watched.exists(chunk(number)[0]) for number in range(200))
            assert not any(watched.exists(chunk(number)[0]) for number in range(1000, 1300))
            assert len(proxy.requests) - before <= 5
        assert proxy.count("PUT") <= 2  # the lease


def test_knowledge_ends_with_the_hold(location: str) -> None:
    store, other = open_store(location), open_store(location)
    key, data = chunk(1)
    with store.writing("web"):
        store.put(key, data)
        store.flush()
        assert store.exists(key)
    with other.collecting():
        other.delete([key])
    assert not store.exists(key)
    with store.writing("web"):
        assert not store.exists(key)


def test_several_uploads_run_at_once_but_not_all(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(location)
    running, most, lock = 0, 0, threading.Lock()
    four = threading.Barrier(4)  # nobody passes before four are there, again and again
    send = store._bucket.put

    def together(key: str, data: bytes) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        four.wait(60)
        send(key, data)
        with lock:
            running -= 1

    monkeypatch.setattr(store._uploads, "_send", together)
    for number in range(100):
        store.put(*chunk(number))
    store.flush()
    assert 4 <= most <= 16
    assert len([*store.list("chunks/")]) == 100


# -- bad lines --------------------------------------------------------------------------------------------------------


def test_dropped_connections_are_made_again(location: str, service: Service) -> None:
    def limit(number: int) -> int | None:
        return 2500 if number < 8 else None

    with proxied(service.address, limit) as proxy:
        store = ObjectStore(location, environment=service.environment(address=proxy.address))
        with store.writing("web"):
            for number in range(30):
                store.put(*chunk(number, 4000))
            store.flush()
            store.put(INDEX, b"index")
            store.put_new(RECORD, b"record")
        assert proxy.cut >= 4
    other = open_store(location)
    assert all(other.get(chunk(number, 4000)[0]) == chunk(number, 4000)[1] for number in range(30))
    assert other.get(RECORD) == b"record"


def test_a_line_that_never_holds_is_told_and_nothing_is_acknowledged(location: str, service: Service) -> None:
    with proxied(service.address, lambda _number: 2000) as proxy:
        environment = service.environment(address=proxy.address) | {"AWS_MAX_ATTEMPTS": "2"}
        store = ObjectStore(location, environment=environment)
        store.put(*chunk(1, 40_000))
        for act in (store.flush, store.flush, lambda: store.put(*chunk(2))):
            with pytest.raises(StorageError, match="connection to the object store broke"):
                act()
    assert [*open_store(location).list("")] == []


def test_a_service_that_is_not_there(location: str, service: Service) -> None:
    environment = service.environment(address="127.0.0.1:1") | {"AWS_MAX_ATTEMPTS": "2"}
    store = ObjectStore(location, environment=environment)
    acts = (lambda: store.get(INDEX), lambda: store.exists(INDEX), lambda: store.put(INDEX, b""))
    for act in acts:
        with pytest.raises(StorageError, match="cannot be reached: Connection refused") as caught:
            act()
        assert "\n" not in caught.value.line()
    with pytest.raises(StorageError, match="cannot be reached"):
        [*store.list("")]
    with pytest.raises(StorageError, match="cannot be reached"), store.writing("web"):
        pass


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("home")
def test_a_bucket_that_does_not_exist() -> None:
    store = open_store("s3://nowhere/x")
    store.put(*chunk(1))
    for act in (store.flush, lambda: store.put(INDEX, b""), lambda: store.get(INDEX), lambda: [*store.list("")]):
        with pytest.raises(StorageError, match="bucket does not exist"):
            act()
    with pytest.raises(StorageError, match="bucket does not exist"), store.writing("web"):
        pass


def test_wrong_credentials(location: str, service: Service) -> None:
    environment = service.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    store = ObjectStore(location, environment=environment)
    store.put(*chunk(1))
    acts = (lambda: store.get(INDEX), lambda: store.exists(INDEX), store.flush, lambda: store.delete([INDEX]))
    for act in acts:
        with pytest.raises(StorageError, match="refuses") as caught:
            act()
        assert "\n" not in caught.value.line()
        assert caught.value.hint
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        store.put(INDEX, b"")
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        [*store.list("")]


def test_a_bucket_that_takes_nothing(location: str, service: Service) -> None:
    """The service's disk lets nobody write: what was there is still read."""
    store = open_store(location)
    store.put(INDEX, b"index")
    place = service.directory / location.removeprefix("s3://") / "guests/new"
    place.write_bytes(b"in the way of a directory")
    strict = ObjectStore(location, environment=service.environment() | {"AWS_MAX_ATTEMPTS": "1"})
    with pytest.raises(StorageError, match="cannot store"):
        strict.put(record_key("new", 1), b"record")
    assert strict.get(INDEX) == b"index"


# -- leases -----------------------------------------------------------------------------------------------------------


def _leases(location: str, service: Service) -> list[Path]:
    return [*(service.directory / location.removeprefix("s3://") / "leases").glob("*")]


def _put_lease(location: str, claim: Claim) -> None:
    ObjectStore(location)._bucket.put("leases/other.json", claim.build())


ELSEWHERE = replace(Claim.ours(Kind.WRITE, "web"), boot="another", host="beta", pid=77)


def test_a_lease_is_gone_afterwards_and_seen_meanwhile(location: str, service: Service) -> None:
    store = open_store(location)
    with store.writing("web"):
        (lease,) = _leases(location, service)
        assert json.loads(lease.read_bytes())["pid"] == os.getpid()
        assert [*store.list("")] == []
    assert _leases(location, service) == []


def test_a_writer_on_another_host_is_named(location: str) -> None:
    _put_lease(location, ELSEWHERE)
    store = ObjectStore(location, times=replace(SHORT, expiry=600))
    for hold in (store.collecting(), store.writing("web")):
        with pytest.raises(BusyError, match="on beta by PID 77"), hold:
            pass
    with store.writing("other"):
        pass


def test_a_lease_of_an_unknown_kind_keeps_everybody_out(location: str) -> None:
    ObjectStore(location)._bucket.put("leases/x.json", b'{"kind": "later"}')
    with pytest.raises(BusyError), ObjectStore(location, times=replace(SHORT, expiry=600)).writing("web"):
        pass


def test_a_dead_writers_lease_expires_by_the_services_clock(location: str, service: Service) -> None:
    began = time.monotonic()
    _put_lease(location, ELSEWHERE)
    with pytest.raises(BusyError), ObjectStore(location, times=replace(SHORT, expiry=600)).collecting():
        pass
    with ObjectStore(location, times=SHORT).collecting(wait_seconds=60):
        assert time.monotonic() - began > SHORT.expiry - 1  # the service may count in whole seconds
        assert len(_leases(location, service)) == 1


def test_a_lease_that_is_refreshed_does_not_expire(location: str) -> None:
    times = replace(SHORT, expiry=5)  # on a busy machine a refreshing may come seconds late
    with ObjectStore(location, times=times).writing("web"):
        other = ObjectStore(location, times=times)
        with pytest.raises(BusyError), other.collecting(wait_seconds=7):
            pass


def test_a_lost_lease_stops_its_holder(location: str, service: Service) -> None:
    store = ObjectStore(location)
    with store.writing("web"):
        store.put(INDEX, b"index")
        for lease in _leases(location, service):
            ObjectStore(location)._bucket.delete(f"leases/{lease.name}")
        for act in (
            lambda: store.put(base_key("web", "var"), b"x"),
            lambda: store.put_new(RECORD, b"x"),
            lambda: store.delete([INDEX]),
        ):
            with pytest.raises(StorageError, match="lease on the store was lost"):
                act()
    with pytest.raises(NoInputError):
        store.get(RECORD)
    assert store.get(INDEX) == b"index"


def test_a_lease_that_could_not_be_refreshed_is_not_trusted(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a sleep of the machine: the lease is still there, but others may have thought it expired."""
    store = ObjectStore(location)
    with store.writing("web"):
        late = leases._clock() + Times().trust + 1
        monkeypatch.setattr(leases, "_clock", lambda: late)
        with pytest.raises(StorageError, match="lost"):
            store.put(INDEX, b"index")


def test_reclaiming_and_writing_never_overlap(location: str) -> None:
    """Many holders that all try at once; whoever holds looks who else does."""
    holding: list[str] = []
    times = Times(contest=0.1)
    overlaps: list[list[str]] = []

    def hold(name: str) -> None:
        store = ObjectStore(location, times=times)
        for _round in range(2):
            with store.collecting(wait_seconds=60) if name == "gc" else store.writing(name, wait_seconds=60):
                holding.append(name)
                overlaps.append([*holding])
                time.sleep(0.05)
                overlaps.append([*holding])
                holding.remove(name)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(hold, name) for name in ("a", "a", "b", "gc", "gc")]:
            done.result(120)
    assert len(overlaps) == 20
    for seen in overlaps:
        assert "gc" not in seen or seen == ["gc"]
        assert seen.count("a") <= 1
