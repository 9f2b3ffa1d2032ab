"""Opening a store by the name that the user gives it."""

from __future__ import annotations

from importlib.util import find_spec

from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.store import Store
from umldisk.errors import UsageError

_OBJECTS = "s3://"


def open_store(location: str) -> Store:
    """Return the store at `location`: a directory, or s3://BUCKET or s3://BUCKET/PREFIX.

    Nothing is made before the first write. Raises UsageError when it is neither, or when the extra for object stores
    is not installed.
    """
    if location.startswith(_OBJECTS):
        _require_library()
        from umldisk.checkpoint.object_store import ObjectStore

        return ObjectStore(location)
    if not location or "://" in location:
        raise UsageError("not a store", where=location, expected=f"a directory or {_OBJECTS}BUCKET/PREFIX")
    return DirectoryStore(location)


def _require_library() -> None:
    if find_spec("obstore") is None:
        raise UsageError("object stores need the package obstore", hint="install umldisk[s3]")
