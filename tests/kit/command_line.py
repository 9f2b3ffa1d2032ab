"""umldisk's command line on a site, in the test's own process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umldisk.cli.main import main


@dataclass(frozen=True)
class Said:
    """What a command ended with and wrote."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """What runs umldisk on the site in a directory."""

    directory: Path

    def __call__(self, *words: str | Path) -> Said:
        """Run umldisk on the site."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["--site", str(self.directory), *map(str, words)])
        return Said(code, out.getvalue(), err.getvalue())
