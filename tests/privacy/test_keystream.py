"""Numbers out of a key: AES in counter mode, uniform and normal, no two purposes alike."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fl_app.privacy.gaussian import CHUNK, normal
from fl_app.privacy.keystream import KEY_BYTES, KeyStream, derived, secret_key, seeded_key

keys = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)


@given(keys, st.lists(st.integers(0, 70), max_size=6))
def test_it_is_aes_of_a_counter_however_it_is_taken(key: bytes, counts: list[int]) -> None:
    stream = KeyStream(key)
    taken = b"".join(map(stream.take, counts))
    counters = b"".join(i.to_bytes(16, "big") for i in range(len(taken) // 16 + 1))
    blocks = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counters)
    assert taken == blocks[: len(taken)]


@given(keys, st.integers(0, 50))
def test_uniform_numbers_are_the_top_53_bits_of_words(key: bytes, count: int) -> None:
    words = np.frombuffer(KeyStream(key).take(8 * count), "<u8")
    found = KeyStream(key).uniform(count)
    assert [int(x * 2**53) for x in found] == [int(word) >> 11 for word in words]
    assert all(0 <= x < 1 for x in found)


@pytest.mark.parametrize("count", [1, 7, CHUNK + 3])
def test_normal_numbers_are_as_many_as_asked_for(count: int) -> None:
    found = normal(KeyStream(bytes(KEY_BYTES)), count)
    assert (found.dtype, found.shape) == (np.float64, (count,))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, normal(KeyStream(bytes(KEY_BYTES)), count))


def test_normal_numbers_are_normal_and_independent() -> None:
    """In the middle, in the tails, next to each other and over the two halves of a draw."""
    count = 400_000
    found = normal(KeyStream(seeded_key(5)), count)
    assert stats.kstest(found, "norm").pvalue > 1e-4
    for bound in (2.5, 3.5, 4.0):
        expected = 2 * stats.norm.sf(bound) * count
        assert abs((np.abs(found) > bound).sum() - expected) < 5 * np.sqrt(expected)
    chunk = found[:CHUNK]
    for lag in (1, len(chunk) // 2):
        assert abs(np.corrcoef(chunk[:-lag], chunk[lag:])[0, 1]) < 5 / np.sqrt(len(chunk) - lag)


@given(keys, st.integers(0, 2**63), st.integers(0, 2**63))
def test_keys_of_purposes_and_seeds_are_unrelated(key: bytes, seed: int, other: int) -> None:
    made = [key, derived(key, "noise"), derived(key, "samples"), seeded_key(seed)]
    assert len({*made}) == 4
    assert {len(one) for one in made} == {KEY_BYTES}
    assert (seeded_key(seed) == seeded_key(other)) == (seed == other)
    assert seeded_key(seed, other) != seeded_key(seed)
    assert secret_key() != secret_key()
