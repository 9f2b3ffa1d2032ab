"""The documentation and the program say the same: every command, option, code and layout is in docs/, and no other."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from tests.kit.oracle import sample
from umldisk import errors
from umldisk.cli import mkcow, moo
from umldisk.cli.group import COMMANDS, EXIT_CODES, group
from umldisk.config.kinds import Tables
from umldisk.config.load import parse_configuration
from umldisk.config.schema import KEYS, Unset, documented_keys
from umldisk.config.show import to_toml
from umldisk.cow.dialect import Dialect
from umldisk.cow.findings import CODES
from umldisk.cow.layout import offset_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMON = "What all commands have in common"
OLD_NAMES = {"umldisk-moo": {"-b", "-d"}, "umldisk-mkcow": {"-f"}}
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])

_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-zA-Z])(?![\w-])")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@cache
def sections(name: str) -> dict[str, str]:
    """Map each heading of the second level to the text below it."""
    parts = re.split(r"^## (.+)$", (DOCS / name).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def command_names() -> Iterator[str]:
    """Yield the names of all commands, of one with commands of its own those: `config check`."""
    for name in COMMANDS:
        found = command(name)
        if isinstance(found, click.Group):
            with click.Context(found) as context:
                yield from (f"{name} {below}" for below in found.list_commands(context))
        else:
            yield name


def command(name: str) -> click.Command:
    found: click.Command | None = group
    for word in name.split():
        assert isinstance(found, click.Group)
        with click.Context(found) as context:
            found = found.get_command(context, word)
    assert found is not None
    return found


def context_of(name: str) -> click.Context:
    """Return a command's context below the group's, whose settings it inherits and then keeps."""
    return click.Context(command(name), info_name=name, parent=click.Context(group, **group.context_settings))


NAMES = list(command_names())


def options_of(subject: click.Command) -> set[str]:
    """Return all spellings of a command's options but those of help."""
    options = (parameter for parameter in subject.params if isinstance(parameter, click.Option))
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def table_options(text: str) -> set[str]:
    """Return the options in the first column of the text's tables."""
    cells = re.findall(r"^\| (`-.+?) \|", text, flags=re.MULTILINE)
    return {option for cell in cells for span in _CODE_SPAN.findall(cell) for option in _OPTION.findall(span)}


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(lines) if re.fullmatch(r"[|-]+", line)}
    body = [line for number, line in enumerate(lines) if number not in rules and number + 1 not in rules]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


# -- commands ---------------------------------------------------------------------------------------------------------


def test_there_is_a_section_for_each_command_and_for_nothing_else() -> None:
    named = [f"umldisk {name}" for name in NAMES]
    assert list(sections("commands.md")) == [COMMON, *named, *OLD_NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_commands_table_has_its_options_and_no_other(name: str) -> None:
    assert table_options(sections("commands.md")[f"umldisk {name}"]) == options_of(command(name))


def test_the_global_options_are_those_of_the_group() -> None:
    assert table_options(sections("commands.md")[COMMON]) == options_of(group) | {"-h", "--help"}


def mentions(text: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each command line of umldisk in the text, as (command, options); fenced blocks included."""
    spans = _CODE_SPAN.findall(text) + re.findall(r"^\$ (?:\./scripts/)?(umldisk .+)$", text, flags=re.MULTILINE)
    for span in spans:
        words = re.match(rf"umldisk (?:--site \S+ )?({'|'.join(NAMES)})\b(.*)", span)
        if words:
            own = words[2].partition(" | ")[0]
            yield words[1], set(_OPTION.findall(own))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_in_the_documentation_exists(page: Path) -> None:
    for name, options in mentions(page.read_text()):
        assert options <= options_of(command(name)) | {"-h", "--help"}, f"umldisk {name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_named_in_a_section_is_of_that_command(name: str) -> None:
    text = sections("commands.md")[f"umldisk {name}"]
    alone = [span for span in _CODE_SPAN.findall(text) if span.startswith("-")]
    assert {option for span in alone for option in _OPTION.findall(span)} <= options_of(command(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_section_has_synopsis_example_and_exit_codes(name: str) -> None:
    text = sections("commands.md")[f"umldisk {name}"]
    arguments = [
        p.make_metavar(click.Context(command(name))) for p in command(name).params if p.param_type_name == "argument"
    ]
    assert re.search(rf"^    umldisk {name} \[OPTIONS\]( |$)", text, re.MULTILINE)
    for argument in arguments:
        assert argument.strip("[]") in text
    assert re.search(rf"```console\n\$ umldisk {name}[ \n]", text)
    codes = re.search(r"^Exit codes: (.+)$", text, flags=re.MULTILINE)
    assert codes is not None
    assert set(map(int, re.findall(r"\b\d+\b", codes[1]))) <= set(EXIT_CODES)


@pytest.mark.parametrize("name", NAMES)
def test_help_and_manual_name_the_same_exit_codes(name: str) -> None:
    listed = re.findall(
        r"^ +(\d+)  ", command(name).get_help(context_of(name)).partition("Exit codes:")[2], re.MULTILINE
    )
    line = re.search(r"^Exit codes: (.+)$", sections("commands.md")[f"umldisk {name}"], flags=re.MULTILINE)
    assert line is not None
    assert {*map(int, listed), errors.UsageError.exit_code} == set(map(int, re.findall(r"\b\d+\b", line[1])))


@pytest.mark.parametrize("name", OLD_NAMES)
def test_the_old_names_take_the_old_options(name: str) -> None:
    text = sections("commands.md")[name]
    synopsis = "\n".join(re.findall(rf"^    {name} .+$", text, flags=re.MULTILINE))
    assert set(_OPTION.findall(synopsis)) == OLD_NAMES[name]
    usage = {"umldisk-moo": moo, "umldisk-mkcow": mkcow}[name]._USAGE
    assert set(re.findall(rf"{name} .+", synopsis)) == set(re.findall(rf"{name} .+", usage))


# -- codes, layouts, findings -----------------------------------------------------------------------------------------


def test_every_exit_code_is_documented_and_no_other() -> None:
    documented = [int(row[0]) for row in rows((DOCS / "exit-codes.md").read_text())]
    assert documented == list(EXIT_CODES)
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.UmldiskError)]
    assert {cls.exit_code for cls in classes} | {errors.FINDINGS_EXIT_CODE} <= set(documented)


def test_every_finding_is_documented_with_its_severity_and_no_other() -> None:
    found = [row for row in rows((DOCS / "findings.md").read_text()) if row[0].startswith("`")]
    documented = {row[0].strip("`"): row[1] for row in found}
    assert len(documented) == len(found)
    assert documented == {name: code.severity.value for name, code in CODES.items()}
    assert all(len(row) == 4 and row[2] and row[3] for row in found)


def test_every_layout_is_documented_with_its_facts() -> None:
    tables = rows((DOCS / "formats.md").read_text())
    documented = {row[0].strip("`"): row for row in tables if len(row) == 7}
    assert list(documented) == [dialect.value for dialect in Dialect]
    for dialect in Dialect:
        order = "little" if dialect.magic == b"MOOO" else "big"
        path = f"at {offset_of(dialect, 'path')}, {dialect.path_bytes} bytes"
        facts = [dialect.label, dialect.writer, f"`{dialect.magic.decode()}`", order, str(dialect.header_bytes), path]
        assert documented[dialect.value][1:] == facts


def test_every_field_of_every_layout_is_documented_with_its_place() -> None:
    names = ("magic", "version", "path", "mtime", "size", "sectorsize", "alignment", "format")
    documented = {}
    for row in rows((DOCS / "formats.md").read_text()):
        if len(row) == 9:
            documented.update(dict.fromkeys((name.strip("`") for name in row[0].split(", ")), row[1:]))
    assert set(documented) == {dialect.value for dialect in Dialect}
    for dialect in Dialect:
        fields = names if dialect.has_alignment else names[:6]
        assert [cell for cell in documented[dialect.value] if cell] == [
            str(offset_of(dialect, name)) for name in fields
        ]


# -- umldisk.toml -----------------------------------------------------------------------------------------------------


def key_rows() -> dict[str, list[str]]:
    """Map each key in the manual of umldisk.toml to the other cells of its row."""
    found = [row for row in rows((DOCS / "configuration.md").read_text()) if row[0].startswith("`")]
    assert len({row[0] for row in found}) == len(found)
    return {row[0].strip("`"): row[1:] for row in found}


def test_every_key_of_the_schema_is_documented_and_no_other() -> None:
    documented = key_rows()
    assert set(documented) == set(documented_keys())
    assert all(len(cells) == 3 and all(cells) for cells in documented.values())


def test_the_documented_defaults_are_those_of_the_schema() -> None:
    documented = key_rows()
    for key in KEYS:
        default = documented[".".join(key.path)][1]
        is_literal = re.match(r"`([^`]+)`(?!.* where )", default)
        written = None if isinstance(key.default, Unset) else to_toml(key.default)
        assert (is_literal[1] if is_literal else None) == written, key.path


def test_the_documented_choices_are_those_of_the_schema() -> None:
    documented = key_rows()
    for name, kind in documented_keys().items():
        if re.fullmatch(r'("[^"]+", )+"[^"]+" or "[^"]+"|"[^"]+" or "[^"]+"', kind.expected):
            assert documented[name][0].replace("`", "") == kind.expected


def test_required_keys_of_tables_are_documented_as_such() -> None:
    documented = key_rows()
    interfaces = documented_keys()["network.interfaces"]
    assert isinstance(interfaces, Tables)
    routes = interfaces.fields["routes"].kind
    assert isinstance(routes, Tables)
    for prefix, fields in (("", interfaces.fields), ("routes[].", routes.fields)):
        for name, field in fields.items():
            row = documented[f"network.interfaces[].{prefix}{name}"]
            assert (row[1] == "required") == field.required


def test_the_examples_of_umldisk_toml_are_without_problems() -> None:
    examples = re.findall(r"^```toml\n(.+?)^```$", (DOCS / "configuration.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        parse_configuration(example, path="/site/umldisk.toml")


# -- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the names that a heading can be linked by, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _hash, anchor = target.partition("#")
        leads_to = (page.parent / path) if path else page
        assert leads_to.exists(), target
        assert not anchor or anchor in anchors(leads_to), target


def test_every_page_is_named_in_the_readme() -> None:
    linked = {target.partition("#")[0] for target in _LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= linked


# -- the example of the Python API ------------------------------------------------------------------------------------


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"^```python\n(.+?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    files = sample(tmp_path, changed={3, 4}, cleared={4})
    files.cow.rename(tmp_path / "root_cow")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert capsys.readouterr().out == "3 2\n"
    assert names["superblock"] == files.merged[1024:2048]
    assert (tmp_path / "new_root_fs").read_bytes() == files.merged
