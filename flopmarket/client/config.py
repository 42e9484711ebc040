"""Where the client finds its coordinator and its key: flag, environment, file, default.

The first that says something wins. The command line and ``Client.from_settings`` read this. The
file is TOML in the user's configuration folder::

    [profile.default]
    address = "market.example.org:7443"
    key = "default"                 # a name under keys/, or a path
    ca = "/etc/flopmarket/ca.crt"   # PEM; needed unless a public authority signed the server
    coordinator_key = "<64 hex>"    # refuse any other coordinator

Nothing here is a secret: a key is named by its file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_CONFIG_BYTES
from flopmarket.trust.keys import key_path

DEFAULT_ADDRESS = "127.0.0.1:7443"
DEFAULT_KEY = "default"
DEFAULT_PROFILE = "default"
ENVIRONMENT_PREFIX = "FLOPMARKET_"
SETTING_NAMES = ("address", "key", "ca", "coordinator_key", "account")
_PROFILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ConfigError(InvalidInput):
    """A setting is malformed, unknown, or names a profile that is not there."""

    default_code = "CONFIG_INVALID"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client needs to know before its first call.

    ``key`` is a key's name or path; ``ca`` a path to PEM or empty; ``coordinator_key`` a key id
    (64 hex) or empty; ``account`` the account id a CI key acts for, or empty for the key's own.
    ``origins`` says where each value came from: ``flag``, ``environment``, ``file`` or ``default``.
    """

    address: str
    key: str
    ca: str
    coordinator_key: str
    account: str
    origins: Mapping[str, str]

    @property
    def key_is_default(self) -> bool:
        """Whether nobody named a key, so that its absence is no mistake."""
        return self.origins["key"] == "default"


def config_path() -> Path:
    """The configuration file of this user."""
    return platformdirs.user_config_path("flopmarket") / "config.toml"


def load_settings(
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    path: Path | None = None,
    profile: str | None = None,
) -> Settings:
    """Resolve every setting; raises :class:`ConfigError`.

    ``flags`` maps names of :data:`SETTING_NAMES` to what the user typed, None where nothing. A
    missing file is an empty one, unless ``path`` or ``profile`` asks for it by name.
    """
    chosen = profile or environment.get(ENVIRONMENT_PREFIX + "PROFILE")
    named = environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    explicit = path or (configuration_file(environment) if named else None)
    table = _profile(explicit or config_path(), chosen, must_exist=explicit is not None)
    defaults = {"address": DEFAULT_ADDRESS, "key": DEFAULT_KEY}
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name in SETTING_NAMES:
        layers = (
            ("flag", flags.get(name)),
            ("environment", environment.get(ENVIRONMENT_PREFIX + name.upper()) or None),
            ("file", table.get(name)),
            ("default", defaults.get(name, "")),
        )
        origins[name], values[name] = next(
            (origin, value) for origin, value in layers if value is not None
        )
    return Settings(**values, origins=origins)


def configuration_file(environment: Mapping[str, str]) -> Path:
    """The file that is read and written: the one that the environment names, or the user's."""
    named = environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    return Path(named) if named else config_path()


def add_profile(path: Path, name: str, values: Mapping[str, str]) -> bool:
    """Write a profile behind what the file has; False where one of that name says otherwise."""
    present = _read(path, must_exist=False).get(name)
    if present is not None:
        return present == dict(values)
    if not _PROFILE_NAME.fullmatch(name):
        raise ConfigError(f"{name[:40]!r} is not a profile's name: letters, digits, - and _")
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    before = path.read_text("utf-8") if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    text = before + ("\n" if before else "") + f"[profile.{name}]\n" + "\n".join(lines) + "\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)
    return True


def key_file(key: Path | str) -> Path:
    """The file of a key given by path, or by name when it has no folder and no ``.pem``."""
    text = str(key)
    if isinstance(key, Path) or "/" in text or text.endswith(".pem"):
        return Path(text).expanduser()
    return key_path(text)


def _profile(path: Path, chosen: str | None, *, must_exist: bool) -> Mapping[str, str]:
    profiles = _read(path, must_exist=must_exist)
    name = chosen or DEFAULT_PROFILE
    if name not in profiles:
        if chosen is None:
            return {}
        raise ConfigError(
            f"{path} has no profile {name!r}",
            code="CONFIG_NO_PROFILE",
            hint=f"it has: {', '.join(sorted(profiles)) or 'none'}",
        )
    table = profiles[name]
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: profile {name!r} must be a table")
    for key, value in table.items():
        if key not in SETTING_NAMES:
            raise ConfigError(
                f"{path}: profile {name!r} has an unknown setting {key!r}",
                hint=f"settings are {', '.join(SETTING_NAMES)}",
            )
        if not isinstance(value, str):
            raise ConfigError(f"{path}: setting {key!r} of profile {name!r} must be text")
    return table


def _read(path: Path, *, must_exist: bool) -> dict[str, object]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"no configuration file {path}", code="CONFIG_MISSING") from None
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    for key in content:
        if key != "profile":
            raise ConfigError(f"{path}: unknown table {key!r}", hint="write [profile.NAME]")
    profiles = content.get("profile", {})
    if not isinstance(profiles, dict):
        raise ConfigError(f"{path}: write [profile.NAME]")
    return profiles
