"""What is wrong with the networks of guests."""

from ipaddress import IPv4Interface

import pytest

from tests.kit.config import guest, one_guest, problems

INTERFACES_WRONG = [
    ('{ name = "eth0" }', "[0]", "no address"),
    ('{ address = "10.1.0.6/30" }', "[0]", "no name"),
    ('{ name = "lo", address = "10.1.0.6/30" }', "[0].name", "loopback"),
    ('{ name = "interface1234567", address = "10.1.0.6/30" }', "[0].name", "at most 15"),
    ('{ name = "eth0", address = "10.1.0.6" }', "[0].address", "10.1.0.6/30"),
    ('{ name = "eth0", address = "10.1.0.6/255.255.255.252" }', "[0].address", "10.1.0.6/30"),
    (
        '{ name = "eth0", address = "10.1.0.5/30" }',
        "[0].address",
        'the host\'s, a guest has the even one, expected "10.1.0.6/30"',
    ),
    ('{ name = "eth0", address = "10.1.0.7/30" }', "[0].address", 'no machine\'s, expected "10.1.0.6/30"'),
    ('{ name = "eth0", address = "10.1.0.4/30" }', "[0].address", '"10.1.0.6/30"'),
    ('{ name = "eth0", address = "10.1.0.0/24" }', "[0].address", "10.1.0.1 to 10.1.0.254"),
    ('{ name = "eth0", address = "127.0.0.2/8" }', "[0].address", "others can reach"),
    ('{ name = "eth0", address = "224.0.0.2/30" }', "[0].address", "one machine"),
    ('{ name = "eth0", address = "10.1.0.6/30", gateway = "10.1.0.9" }', "[0].gateway", '"10.1.0.5", the host\'s'),
    ('{ name = "eth0", address = "10.1.0.6/24", gateway = "10.1.1.1" }', "[0].gateway", "in 10.1.0.0/24"),
    ('{ name = "eth0", address = "10.1.0.6/24", gateway = "10.1.0.6" }', "[0].gateway", "own address"),
    ('{ name = "eth0", address = "10.1.0.6/24", gateway = "10.1.0.255" }', "[0].gateway", "no machine's"),
    (
        '{ name = "eth0", address = "10.1.0.6/30", routes = [{ to = "10.1.0.17/30", via = "10.1.0.5" }] }',
        "[0].routes[0].to",
        'expected "10.1.0.16/30"',
    ),
    (
        '{ name = "eth0", address = "10.1.0.6/30", routes = [{ to = "10.1.0.16/30", via = "10.1.0.17" }] }',
        "[0].routes[0].via",
        '"10.1.0.5", the host\'s',
    ),
    ('{ name = "eth0", address = "10.1.0.6/30", routes = [{ to = "10.1.0.16/30" }] }', "[0].routes[0]", "no via"),
    ('{ name = "eth0", address = "10.1.0.6/30", mtu = 1500 }', "[0].mtu", "address, gateway, name, routes"),
    ('{ name = "e", address = "10.1.0.6/30" }, { name = "e", address = "10.1.1.6/30" }', "[1].name", "a second time"),
    ('{ name = "e", address = "10.1.0.6/24" }, { name = "f", address = "10.1.0.6/30" }', "[1].address", "overlaps"),
    (
        """{ name = "e", address = "10.1.0.6/30", gateway = "10.1.0.5" },
        { name = "f", address = "10.1.1.6/30", gateway = "10.1.1.5" }""",
        "[1].gateway",
        "a second gateway",
    ),
    (
        '{ name = "e", address = "10.1.0.6/30", gateway = "10.1.0.5", routes = [{to = "0.0.0.0/0", via = "10.1.0.5"}]}',
        "[0].routes[0].to",
        "a second gateway",
    ),
    ('"eth0"', "[0]", "a table"),
    ("{}, " * 17, "", "at most 16"),
    (
        '{ name = "e", address = "10.1.0.6/30", routes = [{ to = "10.1.0.16", via = "10.1.0.5" }] }',
        "[0].routes[0].to",
        "a network such as",
    ),
    (
        '{ name = "e", address = "10.1.0.6/30", routes = [{ to = "default", via = "10.1.0.5" }] }',
        "[0].routes[0].to",
        "a network such as",
    ),
    ('{ name = "e", address = "10.1.0.6/30", routes = 5 }', "[0].routes", "an array of tables"),
    ('{ name = "e", address = "300.1.0.6/30" }', "[0].address", "10.1.0.6/30"),
    ('{ name = "e", address = "255.1.0.6/30" }', "[0].address", "one machine"),
]


@pytest.mark.parametrize(("tables", "key", "said"), INTERFACES_WRONG)
def test_one_mistake_about_interfaces_is_one_problem(tables: str, key: str, said: str) -> None:
    (problem,) = problems(one_guest("", f"network.interfaces = [{tables}]"))
    assert problem.key == f"guest.x.network.interfaces{key}"
    assert said in problem.text()
    assert problem.line == (4 if "\n" in tables else 3)


def test_two_guests_must_not_have_one_address() -> None:
    link = 'network.interfaces = [{ name = "eth0", address = "10.1.0.6/30" }]'
    (problem,) = problems(f"[guest.a]\n{link}\n[guest.b]\n{link}\n")
    assert (problem.line, problem.key) == (4, "guest.b.network.interfaces[0].address")
    assert problem.found == '"10.1.0.6/30", which guest.a eth0 has'


def test_two_guests_that_inherit_one_address_are_told_where_it_stands() -> None:
    link = 'network.interfaces = [{ name = "eth0", address = "10.1.0.6/30" }]'
    (problem,) = problems(f"[defaults]\n{link}\n[guest.a]\n[guest.b]\n")
    assert (problem.line, problem.key) == (2, "defaults.network.interfaces[0].address")


@pytest.mark.parametrize("order", [("10.1.0.6/30", "10.1.0.9/24"), ("10.1.0.9/24", "10.1.0.6/30")])
def test_networks_of_two_guests_are_the_same_or_apart(order: tuple[str, str]) -> None:
    text = "".join(
        f'[guest.g{number}]\nnetwork.interfaces = [{{ name = "eth0", address = "{address}" }}]\n'
        for number, address in enumerate(order)
    )
    (problem,) = problems(text)
    assert problem.line == 2 * order.index("10.1.0.6/30") + 2
    assert "inside 10.1.0.0/24 of guest.g" in problem.found


def test_guests_may_share_a_network() -> None:
    text = "".join(
        f'[guest.g{n}]\nnetwork.interfaces = [{{ name = "eth0", address = "10.1.0.{n}/24" }}]\n' for n in (1, 2, 3)
    )
    assert guest(text, "g2").files.network.interfaces[0].address == IPv4Interface("10.1.0.2/24")
