"""Making entries: new texts, and texts of the base with a few lines changed.

An edited file keeps owner, mode and attributes of the base's. One that would come out as it was is not written, so
that it keeps its time too. Bytes of the base that are no UTF-8 pass through unchanged.
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts
from umldisk.build.tree import Entry, FileType, Inode, Text, path_bytes


def edited(facts: BaseFacts, path: str, text: str) -> list[Entry]:
    """Return the entry that changes the base's file `path` to `text`, or none when it is that already."""
    known = facts.files[path]
    if known.text == text:
        return []
    contents = Text(path_bytes(text))
    inode = Inode(FileType.FILE, known.mode, known.uid, known.gid, contents=contents, xattrs=known.xattrs)
    return [Entry(path, inode)]


def edited_lines(text: str) -> list[str]:
    """Return the lines of `text`; the characters that only Python takes for line ends do not count."""
    return text.removesuffix("\n").split("\n") if text else []


def joined(lines: list[str]) -> str:
    """Return `lines` as a text of which every line is ended."""
    return "".join(f"{line}\n" for line in lines)
