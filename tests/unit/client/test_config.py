"""Settings: precedence, profiles, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from flopmarket.client.channel import is_loopback
from flopmarket.client.config import (
    DEFAULT_ADDRESS,
    ConfigError,
    config_path,
    key_file,
    load_settings,
)
from flopmarket.errors import InvalidInput

FILE = """
[profile.default]
address = "file.example.org:1"
key = "filekey"

[profile.work]
address = "work.example.org:2"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


def test_flag_over_environment_over_file_over_default(config: Path) -> None:
    environment = {"FLOPMARKET_ADDRESS": "env.example.org:3"}
    by_flag = load_settings({"address": "flag.example.org:4"}, environment, config)
    assert by_flag.address == "flag.example.org:4"
    by_environment = load_settings({"address": None}, environment, config)
    assert by_environment.address == "env.example.org:3"
    by_file = load_settings({}, {}, config)
    assert (by_file.address, by_file.key) == ("file.example.org:1", "filekey")
    assert by_file.origins["address"] == "file"
    assert by_file.origins["ca"] == "default"
    assert not by_file.key_is_default


def test_an_empty_variable_says_nothing(config: Path) -> None:
    settings = load_settings({}, {"FLOPMARKET_ADDRESS": "", "FLOPMARKET_PROFILE": ""}, config)
    assert settings.address == "file.example.org:1"


def test_defaults_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == tmp_path / "flopmarket" / "config.toml"
    settings = load_settings({}, {})
    assert settings.address == DEFAULT_ADDRESS
    assert settings.key_is_default


def test_a_profile_is_chosen_by_flag_or_environment(config: Path) -> None:
    assert load_settings({}, {}, config, profile="work").address == "work.example.org:2"
    environment = {"FLOPMARKET_PROFILE": "work", "FLOPMARKET_CONFIG": str(config)}
    assert load_settings({}, environment).address == "work.example.org:2"
    with pytest.raises(ConfigError, match="no profile 'play'") as caught:
        load_settings({}, {}, config, profile="play")
    assert "default, work" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        "not toml",
        "profile = 1",
        "[profile]\ndefault = 1",
        '[profile.default]\npassword = "x"',
        "[profile.default]\naddress = 5",
        "[other]\n",
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_settings({}, {}, path)


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({}, {"FLOPMARKET_CONFIG": str(tmp_path / "nowhere.toml")})
    assert caught.value.code == "CONFIG_MISSING"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"#" * 70_000)
    with pytest.raises(ConfigError, match="larger"):
        load_settings({}, {}, path)


def test_keys_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert key_file("mine") == tmp_path / "flopmarket" / "keys" / "mine.pem"
    assert key_file("./mine.pem") == Path("mine.pem")
    assert key_file(Path("mine")) == Path("mine")
    with pytest.raises(InvalidInput):
        key_file("..")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:65535", "[::1]:7443", "127.8.8.8:9"])
def test_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["example.org:1", "10.0.0.1:1", "localhost.example.org:1"])
def test_not_loopback(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:0", "localhost:65536", "http://x:1", "a b:1", "x:-1"]
)
def test_not_an_address(address: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        is_loopback(address)
    assert caught.value.code == "ADDRESS_INVALID"
