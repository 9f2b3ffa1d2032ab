"""Guests: names, paths, and the command that boots one."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.config.guest import Guest, boot_argv, require_guest_name
from umldisk.errors import DataError, UsageError
from umldisk.image.drives import DRIVES, ROOT, SWAP

_ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@pytest.mark.parametrize("name", ["blackdance", "a", "7", "web-1", "A" * 63])
def test_names_of_hosts_are_names_of_guests(name: str) -> None:
    assert require_guest_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        "/x",
        "-a",
        "a-",
        "a.b",
        "a b",
        "a\n",
        "a\x00",
        "é",
        "a,b",
        "a:b",
        "A" * 64,
        "a_b",
        "$(x)",
        "'",
        "٣",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        require_guest_name(name)
    assert refused.value.line().isprintable()


@given(st.text(max_size=70))
def test_a_name_is_accepted_iff_it_is_a_label(name: str) -> None:
    fits = 1 <= len(name) <= 63 and set(name) <= set(_ALNUM + "-")
    fits = fits and name[0] != "-" and name[-1] != "-"
    try:
        accepted = require_guest_name(name) == name
    except UsageError:
        accepted = False
    assert accepted == fits


def test_files_lie_in_the_guests_directory() -> None:
    guest = Guest("x", "/site/guests/x")
    assert guest.base_path(ROOT) == "/site/guests/x/root_fs"
    assert guest.cow_path(ROOT) == "/site/guests/x/root_cow"
    assert guest.cow_path(SWAP) is None


def test_the_boot_command() -> None:
    argv = boot_argv(Guest("blackdance", "/g", memory="96M"), uml_dir="/run/uml")
    assert shlex.join(argv) == (
        "setarch -R linux mem=96M umid=blackdance uml_dir=/run/uml con=null con0=fd:0,fd:1 ssl=null"
        " root=/dev/ubda ro initcall_blacklist=raid6_select_algo"
        " ubd0=/g/root_cow,/g/root_fs ubd1=/g/var_cow,/g/var_fs ubd2=/g/home_cow,/g/home_fs"
        " ubd3=/g/tmp_fs ubd4=/g/swap_fs"
    )


def test_the_boot_command_leaves_umls_own_directory_alone() -> None:
    argv = boot_argv(Guest("x", "/g", DRIVES[:1]))
    assert not [word for word in argv if word.startswith("uml_dir")]
    assert len([word for word in argv if word.startswith("ubd")]) == 1


def test_the_boot_command_takes_the_guests_own_kernel() -> None:
    assert boot_argv(Guest("x", "/g", kernel="/opt/linux-6.6"))[:3] == ("setarch", "-R", "/opt/linux-6.6")


def test_no_command_boots_from_a_path_with_a_comma() -> None:
    with pytest.raises(DataError):
        boot_argv(Guest("x", "/a,b"))
