"""How to reach an object store: endpoint, region and credentials, found where the AWS tools find them.

    environment    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, AWS_CA_BUNDLE,
                   AWS_MAX_ATTEMPTS, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
    files          ~/.aws/credentials, ~/.aws/config (AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE),
                   in the profile AWS_PROFILE, by default "default"

The environment goes before the files, the credentials file before the config file. Where there are no keys at all, the
object store library asks what a machine or container of a cloud provides (web identity, the instance's metadata).

Left out: credentials that another program or a login in a browser must fetch. A profile that needs them is refused,
with the command of the AWS tools that puts what it gets into the environment.

An address that begins with http:// is taken on this machine alone; elsewhere AWS_ALLOW_HTTP=true must say that all
contents may cross the network for everybody to read.
"""

from __future__ import annotations

import configparser
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from umldisk.errors import NoInputError, UsageError

_DEFAULT_REGION = "us-east-1"
_ATTEMPTS = 9
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_FETCHED = ("credential_process", "credential_source", "login_session", "role_arn", "sso_account_id", "sso_session")


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an object store; `keys` are access key, secret and perhaps session token, or none.

    `attempts` is how often a request is sent before it is given up.
    """

    endpoint: str | None
    region: str
    keys: tuple[str, ...]
    allow_http: bool
    ca_bundle: bytes | None = None
    attempts: int = _ATTEMPTS


def find_access(environment: Mapping[str, str]) -> Access:
    """Return how the AWS tools would reach their service.

    Raises UsageError when the profile is missing or its credentials must be fetched, or when the address is not safe;
    NoInputError when a file cannot be read.
    """
    profile = _Profile.load(environment)
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region")
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or profile.service_endpoint
        or profile.get("endpoint_url")
    )
    bundle = environment.get("AWS_CA_BUNDLE") or profile.get("ca_bundle")
    return Access(
        endpoint=endpoint,
        region=region or _DEFAULT_REGION,
        keys=_keys(environment, profile),
        allow_http=_may_use_http(endpoint, environment),
        ca_bundle=_read(bundle) if bundle else None,
        attempts=_attempts(environment.get("AWS_MAX_ATTEMPTS") or profile.get("max_attempts")),
    )


def _attempts(text: str | None) -> int:
    if not text:
        return _ATTEMPTS
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("not a number of attempts", where="AWS_MAX_ATTEMPTS", found=text)
    return int(text)


def _keys(environment: Mapping[str, str], profile: _Profile) -> tuple[str, ...]:
    for source in ({name: environment.get(name.upper()) for name in _KEYS}, profile.credentials, profile.settings):
        found = tuple(source.get(name) or "" for name in _KEYS)
        if found[0] and found[1]:
            return tuple(value for value in found if value)
    fetched = [name for name in _FETCHED if profile.get(name)]
    if fetched and "AWS_WEB_IDENTITY_TOKEN_FILE" not in environment:
        raise UsageError(
            "the credentials of this profile must be fetched by another program",
            where=f"profile {profile.name}",
            found=fetched[0],
            hint='first run: eval "$(aws configure export-credentials --format env)"',
        )
    return ()


def _may_use_http(endpoint: str | None, environment: Mapping[str, str]) -> bool:
    if endpoint is None or urlsplit(endpoint).scheme == "https":
        return False
    if urlsplit(endpoint).scheme != "http":
        raise UsageError("not the address of an object store", where=endpoint, expected="http:// or https://")
    if _is_here(urlsplit(endpoint).hostname or "") or environment.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
        return True
    raise UsageError(
        "a backup would cross the network readable for everybody",
        where=endpoint,
        hint="use https://, or set AWS_ALLOW_HTTP=true where that does not matter",
    )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@dataclass(frozen=True, slots=True)
class _Profile:
    """What the two files say of one profile."""

    name: str
    credentials: Mapping[str, str]
    settings: Mapping[str, str]
    service_endpoint: str | None

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> _Profile:
        chosen = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
        name = chosen or "default"
        home = environment.get("HOME") or os.path.expanduser("~")
        credentials = _parse(environment.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials")
        settings = _parse(environment.get("AWS_CONFIG_FILE") or f"{home}/.aws/config")
        section = settings.get("default" if name == "default" else f"profile {name}", {})
        if chosen and name not in credentials and not section:
            raise UsageError("there is no such profile in the files of the AWS tools", where=f"profile {name}")
        services = settings.get(f"services {section.get('services', '')}", {})
        return cls(name, credentials.get(name, {}), section, _nested(services.get("s3", "")).get("endpoint_url"))

    def get(self, name: str) -> str | None:
        return self.credentials.get(name) or self.settings.get(name)


def _parse(path: str) -> dict[str, dict[str, str]]:
    """Read a file of the AWS tools, which need not be there."""
    if not os.path.exists(path):
        return {}
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(_read(path).decode(), source=path)
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError("cannot read a file of the AWS tools", where=path, found=str(error).split("\n")[0]) from error
    return {section: dict(parser[section]) for section in parser.sections()}


def _nested(text: str) -> dict[str, str]:
    """Read the settings that are indented below one, as those of a service are."""
    rows = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _equals, value in rows}


def _read(path: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read()
    except OSError as error:
        raise NoInputError(f"cannot read: {error.strerror}", where=path) from error
