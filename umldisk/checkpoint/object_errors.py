"""What went wrong with an object store, in one line: the library tells it in a page."""

from __future__ import annotations

import re

from umldisk.errors import NoInputError, StorageError, UmldiskError

_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_SYSTEM = re.compile(r'message: "([^"]+)"')
_METADATA = ("169.254.169.254", "169.254.170.", "fd00:ec2::")


def explain(error: Exception, doing: str, where: str, location: str) -> UmldiskError:
    """Return our error for one of the library's: NoInputError when there is nothing there, else StorageError."""
    text = str(error)
    code, status = _first(_CODE, text), _first(_STATUS, text)
    if code == "NoSuchBucket":
        return StorageError("the bucket does not exist", where=location, hint="make the bucket first")
    if isinstance(error, FileNotFoundError):
        return NoInputError("the store has no such object", where=where)
    if any(address in text for address in _METADATA):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StorageError("there are no credentials for the object store", where=location, hint=hint)
    if status.startswith(("401", "403")):
        said = code or status
        hint = "check the credentials, the region and what they are allowed to do"
        return StorageError(f"the object store refuses to {doing}: {said}", where=where, hint=hint)
    return StorageError(f"cannot {doing}: {_reason(text, code, status)}", where=where)


def _reason(text: str, code: str, status: str) -> str:
    """Return what the service said, or what happened to the connection."""
    if code or status:
        message = _first(_MESSAGE, text)
        return ": ".join(part for part in (code or status, message) if part)
    if "kind: Timeout" in text:
        return "the object store does not answer in time"
    if "kind: Connect" in text:
        return f"the object store cannot be reached: {_first(_SYSTEM, text) or 'no connection'}"
    if "HTTP error" in text:
        return "the connection to the object store broke"
    return text.split("\n", maxsplit=1)[0]


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip() if found else ""
