"""Endpoint, region and credentials: which place wins, and what is refused."""

from pathlib import Path

import pytest

from umldisk.checkpoint.aws import Access, find_access
from umldisk.errors import NoInputError, UsageError

_CREDENTIALS = """
[default]
aws_access_key_id = FILEKEY
aws_secret_access_key = filesecret%with$signs

[other]
aws_access_key_id = OTHERKEY
aws_secret_access_key = othersecret
aws_session_token = othertoken
"""
_CONFIG = """
[default]
region = eu-north-1
endpoint_url = https://general.example

[profile other]
region = eu-south-1
services = mine
endpoint_url = https://general.example
max_attempts = 3

[services mine]
ec2 =
  endpoint_url = https://ec2.example
s3 =
  endpoint_url = https://s3.example
  addressing_style = path

[profile keys-in-config]
aws_access_key_id = CONFIGKEY
aws_secret_access_key = configsecret

[profile fetched]
credential_process = /usr/bin/get-them
"""
_KEYS = {"AWS_ACCESS_KEY_ID": "ENVKEY", "AWS_SECRET_ACCESS_KEY": "envsecret"}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(_CREDENTIALS)
    (tmp_path / ".aws/config").write_text(_CONFIG)
    return {"HOME": str(tmp_path)}


def test_nothing_at_all(tmp_path: Path) -> None:
    assert find_access({"HOME": str(tmp_path)}) == Access(None, "us-east-1", (), allow_http=False)


def test_the_default_profile(home: dict[str, str]) -> None:
    keys = ("FILEKEY", "filesecret%with$signs")
    assert find_access(home) == Access("https://general.example", "eu-north-1", keys, allow_http=False)


@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_named_profile(home: dict[str, str], variable: str) -> None:
    keys = ("OTHERKEY", "othersecret", "othertoken")
    expected = Access("https://s3.example", "eu-south-1", keys, allow_http=False, attempts=3)
    assert find_access(home | {variable: "other"}) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (_KEYS, ("ENVKEY", "envsecret")),
        (_KEYS | {"AWS_SESSION_TOKEN": "t"}, ("ENVKEY", "envsecret", "t")),
        (_KEYS | {"AWS_PROFILE": "fetched"}, ("ENVKEY", "envsecret")),
        ({"AWS_ACCESS_KEY_ID": "half"}, ("FILEKEY", "filesecret%with$signs")),
        ({"AWS_PROFILE": "keys-in-config"}, ("CONFIGKEY", "configsecret")),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}, ()),
    ],
)
def test_which_keys_win(home: dict[str, str], environment: dict[str, str], expected: tuple[str, ...]) -> None:
    assert find_access(home | environment).keys == expected


@pytest.mark.parametrize(
    ("environment", "endpoint", "region"),
    [
        ({"AWS_ENDPOINT_URL": "https://a", "AWS_REGION": "r"}, "https://a", "r"),
        ({"AWS_ENDPOINT_URL": "https://a", "AWS_ENDPOINT_URL_S3": "https://b"}, "https://b", "eu-north-1"),
        ({"AWS_DEFAULT_REGION": "d"}, "https://general.example", "d"),
        ({"AWS_DEFAULT_REGION": "d", "AWS_REGION": "r"}, "https://general.example", "r"),
    ],
)
def test_the_environment_goes_first(
    home: dict[str, str], environment: dict[str, str], endpoint: str, region: str
) -> None:
    access = find_access(home | environment)
    assert (access.endpoint, access.region) == (endpoint, region)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:9000", {}),
        ("http://[::1]:9000", {}),
        ("http://localhost", {}),
        ("http://x.localhost:1", {}),
        ("http://nas:9000", {"AWS_ALLOW_HTTP": "true"}),
    ],
)
def test_plain_http_where_it_is_safe(home: dict[str, str], url: str, allowed: dict[str, str]) -> None:
    assert find_access(home | {"AWS_ENDPOINT_URL": url} | allowed).allow_http


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://nas:9000"}, "readable for everybody"),
        ({"AWS_ENDPOINT_URL": "http://127.evil.example"}, "readable for everybody"),
        ({"AWS_ENDPOINT_URL": "nas:9000"}, "not the address"),
        ({"AWS_PROFILE": "nobody"}, "no such profile"),
        ({"AWS_PROFILE": "fetched"}, "must be fetched"),
        ({"AWS_MAX_ATTEMPTS": "0"}, "not a number"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "not a number"),
    ],
)
def test_refused(home: dict[str, str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_access(home | environment)


def test_files_that_cannot_be_read(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"key without section = 1\n")
    with pytest.raises(UsageError, match="cannot read"):
        find_access(home | {"AWS_CONFIG_FILE": str(tmp_path / "broken")})
    with pytest.raises(NoInputError, match="cannot read"):
        find_access(home | {"AWS_CA_BUNDLE": str(tmp_path / "missing.pem")})
