"""Nobody sends the coordinator into its own house: which webhook addresses are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket_coordinator.webhook_address import check_address, target_of


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://example.org/hook", "example.org", 443),
        ("https://example.org:8443/hook?a=b", "example.org", 8443),
        ("https://93.184.216.34/", "93.184.216.34", 443),
        ("https://[2606:2800:220:1::1]:444/x", "2606:2800:220:1::1", 444),
    ],
)
def test_public_https_is_taken(url: str, host: str, port: int) -> None:
    target = target_of(url, private_allowed=False)
    assert (target.scheme, target.host, target.port) == ("https", host, port)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https:///hook",
        "https://",
        "https://user:secret@example.org/",
        "https://example.org@127.0.0.1/",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://exam ple.org/",
        "https://example.org\\@127.0.0.1/",
        "https://example.org/\r\nhost: other",
        "https://ex\u00e4mple.org/",
        "https://example.org/" + "x" * 2048,
        "https://[::1",
    ],
)
@pytest.mark.parametrize("private_allowed", [False])
def test_other_urls_are_refused(url: str, private_allowed: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        target_of(url, private_allowed=private_allowed)
    assert caught.value.code == "WEBHOOK_URL"


PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "2001:0:7f00:1::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_unless_the_operator_allows_them(address: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_address(address, private_allowed=False)
    assert caught.value.code == "WEBHOOK_ADDRESS"
    check_address(address, private_allowed=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_taken(address: str) -> None:
    check_address(address, private_allowed=False)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "10.0.0.1", "[::ffff:192.168.0.1]"])
def test_an_address_in_the_url_is_judged_too(address: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        target_of(f"https://{address}/", private_allowed=False)
    assert caught.value.code == "WEBHOOK_ADDRESS"
    assert target_of(f"http://{address}:8080/", private_allowed=True).port == 8080


@given(st.text(max_size=80))
def test_any_text_is_taken_or_refused(text: str) -> None:
    for url in (text, f"https://{text}"):
        try:
            target = target_of(url, private_allowed=False)
        except FlopmarketError:
            continue
        assert target.scheme == "https" and target.host and 0 < target.port < 65_536
