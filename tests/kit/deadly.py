"""For scripts that the tests run: a process that kills itself in the middle of its work."""

import os
import signal
from collections.abc import Callable
from typing import Any


def die_at(call: int, *names: str) -> None:
    """Let this process send itself SIGKILL before the `call`-th of its calls of these functions of `os`; 0 is never."""
    left = call

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return counted

    for name in names:
        setattr(os, name, deadly(getattr(os, name)))
