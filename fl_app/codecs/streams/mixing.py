"""Adaptive coding of levels by mixed contexts: each value by what came before it in its tensor.

A symbol is a level numbered as `zigzag` does (0, -1, 1, -2, 2, ...): a magnitude and a sign. A
magnitude m is m decisions "more" and one "no more". Each decision has a probability in every
context; these are mixed in the logistic domain, with weights that are learnt on the way (Mahoney,
Adaptive weighing of context models for lossless data compression, Florida Tech CS-2005-16), and
coded by a binary arithmetic coder. There is no table.

The contexts of a value are its tensor, the mean magnitude of its row so far, that of its column so
far, and the exponent of the reference there, which both ends hold; those of its sign are sign and
exponent of the reference. A client whose rows differ from the last one's undoes a part of what that
one learnt, which is cheap where the reference is the last model.

Beside it are the values of the lines before its own: of the rows of a matrix that has fewer rows
than columns, else of the columns. What training adds to a LoRA factor is near to a matrix of low
rank, so that lines lean on each other, by how much and with which sign is learnt: with ``beside``
the levels d_k of the `NEAR` lines before, up to `CLIP`, give the sign of a value the logit
``sum_k w_k d_k`` in addition to that of its context. The w_k of each line start at 0 and follow the
gradient of the code's length, ``w_k += RATE (is negative - p) d_k`` (logistic regression). How far
the sum is from 0 is one more context of the magnitude.

All arithmetic is that of integers, so that both ends find the same probabilities. Any bytes are the
code of some symbols: two of a checksum come first, and reading encodes again, and compares.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl_app.codecs.base import WireError
from fl_app.codecs.parts.compiled import jit, run
from fl_app.codecs.streams.bits import Symbols

ONE = 1 << 16
"""Probabilities are in units of 1 / ONE."""
LIMIT = 250
"""A probability follows the mean of its first LIMIT decisions, and then with this inertia."""
UNIT, MOST = 256, 2047
"""Logits are in units of 1 / UNIT, from -MOST to MOST."""
CONTEXTS, KINDS, MEANS = 4, 9, 17
"""Contexts of a decision, one more with ``beside``; kinds: "more" than 0 to 6, than others,
"negative"; means told apart."""
SIGN, LAST = KINDS - 1, KINDS - 2
CHECK = 2  # bytes
FIRST = 8  # decisions that a first guess of 1/2 weighs in the probability of a sign
EXPONENTS = 16
"""Exponents of the reference that are told apart, from the largest of its tensor downwards."""
NEAR, CLIP = 8, 2
"""Lines before a value's own whose levels say something of its sign; the largest of them."""
RATE = 2  # a w_k, in units of 1 / ONE, learns by 2**-RATE

_LOGITS = [math.log((i + 0.5) / (4095.5 - i)) for i in range(4096)]
STRETCH = np.array([max(-MOST, min(MOST, round(UNIT * x))) for x in _LOGITS], np.int64)
"""ln(p / (1 - p)) of p = (i + 1/2) / 4096."""
SQUASH = np.array(
    [round(ONE / (1 + math.exp(-x / UNIT))) for x in range(-MOST, MOST + 1)], np.int64
)
"""1 / (1 + exp(-x)) of x = (i - MOST) / UNIT. No value of either is close to a half."""


def encode(
    symbols: Symbols, tensors: Sequence[NDArray[np.float32]], alphabet: int, beside: bool
) -> bytes | None:
    """Return the symbols; None where these take more bytes than there are symbols.

    Parameters
    ----------
    symbols : uint8
        Of all values, tensor by tensor.
    tensors : sequence of float32
        The reference: their shapes and values.
    alphabet : int
        The number of symbols.
    beside : bool
        Whether the lines before a value's own say something of it.
    """
    out = np.empty(symbols.size + 8, np.uint8)
    end = _run(symbols.copy(), out, tensors, alphabet, beside, encodes=True)
    return _checksum(symbols) + out[:end].tobytes() if 0 <= end <= symbols.size else None


def decode(
    data: bytes, tensors: Sequence[NDArray[np.float32]], alphabet: int, beside: bool
) -> Symbols:
    """Return the symbols, each below ``alphabet``.

    Raises
    ------
    WireError
        Not what `encode` writes.
    """
    symbols = np.empty(sum(x.size for x in tensors), np.uint8)
    coded = np.frombuffer(data, np.uint8)[CHECK:].copy()
    end = _run(symbols, coded, tensors, alphabet, beside, encodes=False)
    if end < 0 or encode(symbols, tensors, alphabet, beside) != data:
        raise WireError("mixing: the bytes are not those of symbols of this alphabet")
    return symbols


def _checksum(symbols: Symbols) -> bytes:
    return zlib.crc32(symbols.tobytes()).to_bytes(4, "little")[:CHECK]


def _run(
    symbols: Symbols,
    data: NDArray[np.uint8],
    tensors: Sequence[NDArray[np.float32]],
    alphabet: int,
    beside: bool,
    encodes: bool,
) -> int:
    """Encode or decode all symbols; return the length of the bytes, -1 for what cannot be."""
    contexts = CONTEXTS + beside
    slots = KINDS * (len(tensors) + 4 * MEANS)
    probabilities, counts = np.full(slots, ONE // 2, np.int64), np.zeros(slots, np.int64)
    weights = np.full(KINDS * MEANS * contexts, ONE // contexts, np.int64)
    model = (probabilities, counts, weights, STRETCH, SQUASH)
    start = 0 if encodes else int.from_bytes(data[:4].tobytes().ljust(4, b"\0"), "big")
    coder = np.array([0, 2**32 - 1, start, 0 if encodes else 4], np.int64)
    place = 0
    for number, x in enumerate(tensors):
        rows = x.shape[0] if x.ndim > 1 else 1
        columns = x.size // max(rows, 1)
        part = symbols[place : place + x.size]
        where = (number, len(tensors), rows, columns, x.reshape(-1).view(np.int32))
        leans = np.zeros(NEAR * min(rows, columns) if beside else 0, np.int64)
        if not run(_code, part, data, encodes, alphabet, *where, coder, leans, contexts, *model):
            return -1
        place += x.size
    return int(run(_end, coder, data)) if encodes else 0


@jit
def _code(
    symbols, data, encodes, alphabet, tensor, tensors, rows, columns, reference, coder,
    leans, contexts, probabilities, counts, weights, stretch, squash,
):  # fmt: skip
    """Encode or decode the symbols of a tensor; return whether that can be."""
    largest = 0
    for bits in reference:
        largest = max(largest, (int(bits) >> 23) & 0xFF)
    sums = np.zeros(columns, np.int64)
    place, most, width = 0, alphabet // 2, tensors + 4 * MEANS
    wide = rows <= columns
    stride, lean, line, near = columns if wide else 1, 0, 0, 0
    for row in range(rows):
        total = 0
        for column in range(columns):
            exponent = (int(reference[place]) >> 23) & 0xFF  # of a subnormal as of zero: 0
            if exponent:
                exponent = max(EXPONENTS + exponent - largest, 1)
            by_row = _level(total, column)
            by_column = tensors + MEANS + _level(int(sums[column]), row)
            if contexts > CONTEXTS:
                line = row if wide else column
                near = min(line, NEAR)
                lean = _lean(symbols, place, stride, leans, line, near)
            by_lean = tensors + 3 * MEANS + min(abs(lean) >> 14, MEANS - 1)
            by_exponent = tensors + 2 * MEANS + exponent
            slots = (tensor, tensors + by_row, by_column, by_exponent, by_lean)
            symbol = int(symbols[place]) if encodes else 0
            magnitude, found, more = (symbol + 1) >> 1, 0, 1
            while more and found < most:
                kind = min(found, LAST)
                at = (kind * width, (kind * MEANS + by_row) * contexts, contexts)
                p = _chance(slots, at, probabilities, weights, stretch, squash)
                more = _decide(p, int(found < magnitude), coder, data, encodes)
                if more < 0:
                    return False
                error = (ONE if more else 0) - p
                _learn(more, error, slots, at, probabilities, counts, weights, stretch)
                found += more
            if found:
                sign = -exponent if reference[place] < 0 else exponent
                slot = SIGN * width + EXPONENTS + sign
                p, n = int(probabilities[slot]), int(counts[slot])
                chance = p
                if near:
                    x = int(stretch[p >> 4]) + (lean >> 8)
                    chance = int(squash[min(max(x, -MOST), MOST) + MOST])
                    chance = min(max(chance, 1024), ONE - 1024)
                negative = _decide(chance, symbol & 1, coder, data, encodes)
                if negative < 0:
                    return False
                p += ((ONE - 1 if negative else 0) - p) // (n + FIRST)
                probabilities[slot] = min(max(p, 64), ONE - 64)
                counts[slot] = min(n + 1, LIMIT)
                error = (ONE if negative else 0) - chance
                for k in range(near):
                    d = _signed(int(symbols[place - (k + 1) * stride]))
                    leans[line * NEAR + k] += (error * d) >> RATE
                symbol = 2 * found - negative
            if not encodes:
                if symbol >= alphabet:
                    return False
                symbols[place] = symbol
            total += found
            sums[column] += found
            place += 1
    return True


@jit
def _lean(symbols, place, stride, leans, line, near):
    """Return the logit of "negative" by the lines before, in units of 1 / ONE."""
    lean = 0
    for k in range(near):
        lean += int(leans[line * NEAR + k]) * _signed(int(symbols[place - (k + 1) * stride]))
    return lean


@jit
def _signed(symbol):
    """Return the level of a symbol, from -CLIP to CLIP."""
    magnitude = min((symbol + 1) >> 1, CLIP)
    return -magnitude if symbol & 1 else magnitude


@jit
def _chance(slots, at, probabilities, weights, stretch, squash):
    """Return the probability of "more", mixed from its contexts."""
    offset, first, contexts = at
    x = 0
    for c in range(contexts):
        p = int(probabilities[offset + slots[c]])
        x += int(weights[first + c]) * int(stretch[p >> 4])
    p = int(squash[min(max(x >> 16, -MOST), MOST) + MOST])
    return min(max(p, 32), ONE - 32)


@jit
def _learn(more, error, slots, at, probabilities, counts, weights, stretch):
    """Move the probabilities of a decision's contexts, and their weights, to what it was."""
    offset, first, contexts = at
    for c in range(contexts):
        slot = offset + slots[c]
        p, n = int(probabilities[slot]), int(counts[slot])
        weights[first + c] += (int(stretch[p >> 4]) * error) >> 15
        p += 2 * ((ONE - 1 if more else 0) - p) // (2 * n + 3)
        probabilities[slot] = min(max(p, 16), ONE - 16)
        counts[slot] = min(n + 1, LIMIT)


@jit
def _decide(p, bit, coder, data, encodes):
    """Code a decision that is 1 with probability p / ONE; return it, -1 where there is no room."""
    low, high, value, at = int(coder[0]), int(coder[1]), int(coder[2]), int(coder[3])
    middle = low + ((high - low) >> 16) * p + ((((high - low) & 0xFFFF) * p) >> 16)
    if not encodes:
        bit = int(value <= middle)
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 24 == 0:  # a byte is certain
        if encodes:
            if at >= len(data):
                return -1
            data[at] = high >> 24
        else:
            value = (value << 8 & 0xFFFFFFFF) | (int(data[at]) if at < len(data) else 0)
        low, high, at = low << 8 & 0xFFFFFFFF, (high << 8 & 0xFFFFFFFF) | 0xFF, at + 1
    coder[0], coder[1], coder[2], coder[3] = low, high, value, at
    return bit


@jit
def _level(total, count):
    """Return the mean magnitude of what came before, in 16 levels; 16 of nothing."""
    if not count:
        return 16
    mean, level = 16 * total // count, 0
    while level < 15 and mean > level * level:
        level += 1
    return level


@jit
def _end(coder, data):
    """Write the fewest bytes of a number from low to high, which the reader fills up with zeros."""
    low, high, at = int(coder[0]), int(coder[1]), int(coder[3])
    for size in range(5):
        unit = 1 << (32 - 8 * size)
        number = (low + unit - 1) // unit * unit
        if number <= high:
            if at + size > len(data):
                return -1
            for i in range(size):
                data[at + i] = number >> (24 - 8 * i) & 0xFF
            at += size
            break
    while at > 0 and data[at - 1] == 0:
        at -= 1
    return at
