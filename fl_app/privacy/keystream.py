"""Random numbers out of a key of 256 bits: the key stream of AES in counter mode.

Whoever has seen any part of it learns nothing of the rest without the key; torch's and numpy's
generators are not made for that, and torch's on a CPU knows 2^32 seeds only.
"""

import hashlib
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32


def secret_key() -> bytes:
    """Return a key from the operating system."""
    return os.urandom(KEY_BYTES)


def seeded_key(*numbers: int) -> bytes:
    """Return the key of ``numbers``, which whoever knows them has too."""
    return hashlib.blake2b(repr(numbers).encode(), digest_size=KEY_BYTES).digest()


def derived(key: bytes, purpose: str) -> bytes:
    """Return the key of one purpose; those of others are unrelated to it."""
    return hashlib.blake2b(purpose.encode(), digest_size=KEY_BYTES, key=key).digest()


class KeyStream:
    """Bytes and numbers of ``key``, each used once, in order."""

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        return self._stream.update(bytes(count))

    def uniform(self, count: int) -> np.ndarray:
        """Return float64 [count] in [0, 1): multiples of 2^-53, all equally likely."""
        words = np.frombuffer(self.take(8 * count), "<u8")
        return (words >> np.uint64(11)) * 2.0**-53
