"""The cryptography of secure aggregation, all of it from libraries.

Key agreement is X25519, keys are derived by HKDF-SHA256, shares are encrypted by AES-256-GCM, and
masks are the key stream of AES-256 in counter mode: pyca/cryptography. Secrets are shared by
Flower's Shamir scheme over GF(2^128), which is PyCryptodome's.

Flower's own mask generator is not used: it folds its key into 32 bits, for numpy's Mersenne
Twister, and so few keys can be tried one by one.
"""

import os
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares

from fl_app.codecs.streams.words import Words
from fl_app.privacy.keystream import KeyStream

KEY_BYTES = 32
SHARE_BYTES = 4 + 48  # an index, and a secret of 32 bytes padded to whole blocks of Shamir's field
_NONCE_BYTES, _TAG_BYTES = 12, 16
SEALED_BYTES = _NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES  # two shares for one member
_CHUNK = 1 << 15  # words


def new_key() -> bytes:
    """Return 32 bytes from the operating system: an X25519 private key, or a seed."""
    return os.urandom(KEY_BYTES)


def public(key: bytes) -> bytes:
    """Return the public key of a private one, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def agree(key: bytes, other: bytes, purpose: str) -> bytes:
    """Return the 32-byte secret of a private key and another side's public one, for one purpose.

    Raises
    ------
    ValueError
        If the public key is none.
    """
    shared = X25519PrivateKey.from_private_bytes(key).exchange(
        X25519PublicKey.from_public_bytes(other)
    )
    info = f"thinwire secure aggregation, {purpose}".encode()
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(shared)


def seal(key: bytes, text: bytes) -> bytes:
    """Return ``text`` encrypted and authenticated: 28 bytes more."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Undo `seal`.

    Raises
    ------
    ValueError
        If it was not sealed with this key.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except InvalidTag:
        raise ValueError("a share was changed on the way, or is for another client") from None


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Return ``count`` shares of 32 bytes, of which any ``threshold`` give them back."""
    return create_shares(secret, threshold, count)


def join(shares: list[bytes]) -> bytes:
    """Undo `split`, with ``threshold`` shares of different members.

    Raises
    ------
    ValueError
        If they are not shares of one secret.
    """
    if {len(share) for share in shares} != {SHARE_BYTES}:
        raise ValueError(f"a share has not {SHARE_BYTES} bytes")
    secret = combine_shares(shares)
    if len(secret) != KEY_BYTES:
        raise ValueError("the shares are not of one secret")
    return secret


def add_mask(words: Words, key: bytes, sign: int) -> None:
    """Add the mask of ``key`` to ``words``, in place and modulo 2^32 or 2^64; -1 takes it off."""
    stream, kind = KeyStream(key), np.dtype(words.dtype).newbyteorder("<")
    for i in range(0, words.size, _CHUNK):
        part: Any = words[i : i + _CHUNK]
        mask = np.frombuffer(stream.take(part.nbytes), kind)
        if sign > 0:
            part += mask
        else:
            part -= mask
