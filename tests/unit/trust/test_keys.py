"""Keys, their ids, and the files they live in."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flopmarket.trust.errors import UnusableKey
from flopmarket.trust.keys import KeyPair, PublicKey, default_key_folder, key_path

PRIME = 2**255 - 19


def test_rfc_8032_vector() -> None:
    key = KeyPair.from_seed(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert key.public.raw.hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9"
        "b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_the_key_id_is_the_hash_of_the_der_public_key() -> None:
    key = KeyPair.generate()
    der = Ed25519PublicKey.from_public_bytes(key.public.raw).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert key.key_id == key.public.key_id == hashlib.sha256(der).hexdigest()


def test_signatures_verify_and_others_do_not() -> None:
    key, other = KeyPair.generate(), KeyPair.generate()
    signature = key.sign(b"message")
    assert key.public.verifies(signature, b"message")
    assert not key.public.verifies(signature, b"massage")
    assert not other.public.verifies(signature, b"message")
    assert not key.public.verifies(signature[:-1], b"message")
    assert not key.public.verifies(b"", b"message")


def test_a_malleable_signature_is_refused() -> None:
    """RFC 8032 section 5.1.7: S must be below the group order, or S + L would verify too."""
    order = 2**252 + 27742317777372353535851937790883648493
    key = KeyPair.generate()
    signature = key.sign(b"m")
    shifted = int.from_bytes(signature[32:], "little") + order
    assert not key.public.verifies(signature[:32] + shifted.to_bytes(32, "little"), b"m")


def _small_order_points() -> list[bytes]:
    """The encodings of the eight points P with 8P = 0, by the curve equation."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    root = pow(2, (PRIME - 1) // 4, PRIME)

    def add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
        product = d * p[0] * q[0] * p[1] * q[1]
        x = (p[0] * q[1] + q[0] * p[1]) * pow(1 + product, -1, PRIME) % PRIME
        y = (p[1] * q[1] + p[0] * q[0]) * pow(1 - product, -1, PRIME) % PRIME
        return x, y

    y = int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    )
    square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * root % PRIME
    assert x * x % PRIME == square
    points = [(0, 1)]
    for _ in range(7):
        points.append(add(points[-1], (x, y)))
    assert add(points[-1], (x, y)) == (0, 1) and len(set(points)) == 8
    return [(y + ((x & 1) << 255)).to_bytes(32, "little") for x, y in points]


@pytest.mark.parametrize("raw", _small_order_points(), ids=lambda raw: raw.hex()[:8])
def test_keys_of_small_order_are_refused(raw: bytes) -> None:
    with pytest.raises(UnusableKey) as caught:
        PublicKey(raw)
    assert caught.value.code == "PUBLIC_KEY_WEAK"


@pytest.mark.parametrize("ordinate", [PRIME, PRIME + 1, 2**255 - 1])
def test_keys_in_a_second_spelling_are_refused(ordinate: int) -> None:
    for sign in (0, 1 << 255):
        with pytest.raises(UnusableKey) as caught:
            PublicKey((ordinate + sign).to_bytes(32, "little"))
        assert caught.value.code == "PUBLIC_KEY_WEAK"


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytearray(32), "0" * 32])
def test_public_keys_are_32_bytes(raw: bytes) -> None:
    with pytest.raises(UnusableKey) as caught:
        PublicKey(raw)
    assert caught.value.code == "PUBLIC_KEY_MALFORMED"


def test_pem_round_trips_and_refuses_other_algorithms() -> None:
    key = KeyPair.generate()
    assert PublicKey.from_pem(key.public.to_pem()) == key.public
    assert KeyPair.from_pem(key.to_pem()).public == key.public
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(UnusableKey, match="Ed25519"):
        KeyPair.from_pem(
            other.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    with pytest.raises(UnusableKey, match="Ed25519"):
        PublicKey.from_pem(
            other.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    with pytest.raises(UnusableKey):
        KeyPair.from_pem(b"-----BEGIN")
    with pytest.raises(UnusableKey):
        PublicKey.from_pem(key.to_pem())
    with pytest.raises(UnusableKey, match="32 bytes"):
        KeyPair.from_seed(b"short")


def test_a_saved_key_loads_again_and_is_private(tmp_path: Path) -> None:
    key = KeyPair.generate()
    path = key_path("laptop", tmp_path / "keys")
    before = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    loaded = KeyPair.load(path)
    assert loaded == key
    assert loaded.sign(b"m") == key.sign(b"m")


def test_a_strict_umask_does_not_make_a_key_unreadable(tmp_path: Path) -> None:
    before = os.umask(0o600)
    try:
        KeyPair.generate().save(tmp_path / "a.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.pem").stat().st_mode) == 0o600


def test_an_existing_file_or_link_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    KeyPair.generate().save(path)
    content = path.read_bytes()
    link = tmp_path / "b.pem"
    link.symlink_to(tmp_path / "elsewhere")
    for target in (path, link):
        with pytest.raises(UnusableKey) as caught:
            KeyPair.generate().save(target)
        assert caught.value.code == "KEY_FILE_EXISTS"
    assert path.read_bytes() == content
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o777])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.pem"
    KeyPair.generate().save(path)
    path.chmod(mode)
    with pytest.raises(UnusableKey) as caught:
        KeyPair.load(path)
    assert caught.value.code == "KEY_FILE_TOO_OPEN"
    assert f"{mode:04o}" in caught.value.message
    assert f"chmod 600 {path}" in caught.value.hint


def test_what_is_no_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableKey) as caught:
        KeyPair.load(tmp_path / "missing.pem")
    assert caught.value.code == "KEY_FILE_MISSING"
    with pytest.raises(UnusableKey) as caught:
        KeyPair.load(tmp_path)
    assert caught.value.code == "KEY_FILE_UNREADABLE"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(UnusableKey) as caught:
        KeyPair.load(pipe)
    assert caught.value.code == "KEY_FILE_UNREADABLE"
    big = tmp_path / "big.pem"
    big.write_bytes(bytes(20_000))
    big.chmod(0o600)
    with pytest.raises(UnusableKey, match="at most"):
        KeyPair.load(big)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "A", "x" * 65, "a\n"])
def test_key_names_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableKey) as caught:
        key_path(name, tmp_path)
    assert caught.value.code == "KEY_NAME_INVALID"


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_folder() == tmp_path / "flopmarket" / "keys"
    assert key_path("owner") == tmp_path / "flopmarket" / "keys" / "owner.pem"


def test_a_private_key_does_not_show() -> None:
    key = KeyPair.from_seed(bytes(range(32)))
    assert "private" not in repr(key).lower()
    assert bytes(range(32)).hex() not in repr(key)


def test_openssl_reads_our_key(tmp_path: Path) -> None:
    key = KeyPair.generate()
    key.save(tmp_path / "k.pem")
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-in", str(tmp_path / "k.pem"), "-pubout", "-outform", "DER"],
            capture_output=True,
            check=True,
        )
    except FileNotFoundError:
        pytest.skip("the openssl command is not installed")
    assert done.stdout.endswith(key.public.raw)
