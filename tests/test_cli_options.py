"""What the options of all commands take: numbers of seconds."""

from collections.abc import Iterator

import click
import pytest

from umldisk.cli.group import group
from umldisk.cli.main import main
from umldisk.cli.options import Seconds

Captured = pytest.CaptureFixture[str]


def _parameters(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    """Yield the parameters of a command and of those below it, each with the words that call its command."""
    if not isinstance(command, click.Group):
        yield from ((words, parameter) for parameter in command.params)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _parameters(below, *words, name)


_NUMBERS = [(words, one) for words, one in _parameters(group) if isinstance(one.type, click.types.FloatParamType)]
_WITH_SECONDS = sorted({(*words, one.opts[0]) for words, one in _NUMBERS})


def test_every_number_that_may_be_broken_is_one_of_seconds() -> None:
    assert len(_WITH_SECONDS) > 10
    assert [words for words, one in _NUMBERS if not isinstance(one.type, Seconds)] == []


@pytest.mark.parametrize("words", _WITH_SECONDS, ids=" ".join)
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf", "1e999", "-1", "1e9", "x", ""])
def test_what_is_no_number_of_seconds(words: tuple[str, ...], value: str, capsys: Captured) -> None:
    assert main([*words, value, "x", "x", "x"]) == 2
    said = capsys.readouterr()
    first, hint = said.err.splitlines()
    assert (said.out, hint) == ("", f"hint: umldisk {' '.join(words[:-1])} --help")
    assert first.startswith(f"umldisk: error: invalid value for '{words[-1]}': ")


@pytest.mark.parametrize("value", ["0", "0.5", "1e3", "31622400"])
def test_what_is_a_number_of_seconds(value: str) -> None:
    assert Seconds().convert(value, None, None) == float(value)
