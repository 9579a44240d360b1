"""Blockwise 4-bit NormalFloat with one float32 scale per block."""

from __future__ import annotations

import numpy as np

from fl_app.codecs import nf4_kernels as kernels
from fl_app.codecs.base import (
    Codec,
    Stream,
    Tree,
    Wire,
    WireError,
    check_sections,
    check_tree,
    not_finite,
    register,
    stateless,
)

_INF_BITS = 0x7F800000


@register("nf4")
def nf4(block: int = 64, scale: str = "fp32") -> Codec:
    """Each value as the nearest of 16 normal quantiles, times the largest magnitude of its block.

    A tensor is flattened and cut into blocks of ``block`` values, the last of which may be short;
    ``s = max |x|`` of the block, ``code = argmin |CODEBOOK - x / s|``, decoded
    ``CODEBOOK[code] * s``. Bits as bitsandbytes 0.50.2 gives them for flattened input, but for
    full blocks with 0 < s < 1e-38 (see `nf4_kernels`, also for ties and the order of the codes).

    Sections: the scales of all tensors (little-endian float32), then the codes of all tensors,
    two a byte, each tensor padded to a whole byte.

    Rate: ``sum_j ceil(n_j / 2) + 4 ceil(n_j / block)`` bytes, 4.5 bits a value for block 64.
    Error: at most 0.15191 s per value, half of the widest gap; the block's largest magnitude and
    zeros are exact; relative L2 about 0.094 on Gaussian values for block 64. For short blocks the
    scale is at least 1e-38. Encoding what was decoded changes no bit.

    Args:
        block: values per scale, a power of two of at least 16.

    Raises:
        ValueError: another block.
        CodecError: NaN or Inf.
        WireError: wrong lengths, a scale that is negative, NaN or Inf, padding that is not zero's
            code.

    Source: Dettmers et al., QLoRA, arXiv 2305.14314; sent as in 4-bit LoRA for PFL-DocVQA.
    """
    if type(block) is not int or not 16 <= block <= 2**30 or block & (block - 1):
        raise ValueError(f"nf4: block must be a power of two of at least 16, got {block!r}")

    if scale != "fp32":
        raise ValueError(f"nf4: scale must be fp32, got {scale!r}")

    def n_blocks(n: int) -> int:
        return -(-n // block)

    def n_bytes(n: int) -> int:
        return -(-n // 2)

    def sizes(ref: Tree) -> tuple[int, int]:
        blocks = sum(n_blocks(r.size) for r in ref.values())
        return blocks, sum(n_bytes(r.size) for r in ref.values())

    def streams(ref: Tree) -> tuple[Stream, Stream]:
        blocks, size = sizes(ref)
        return Stream(8, 4 * blocks), Stream(4, 2 * size)

    def encode(tree: Tree, state: tuple[()], ref: Tree) -> tuple[Wire, tuple[()]]:
        check_tree(tree, ref)
        blocks, size = sizes(ref)
        absmax, packed = np.empty(blocks, np.float32), np.empty(size, np.uint8)
        a = p = 0
        for name, x in tree.items():
            a_end, p_end = a + n_blocks(x.size), p + n_bytes(x.size)
            if not kernels.encode(x.reshape(-1), absmax[a:a_end], packed[p:p_end], block):
                raise not_finite(name)
            a, p = a_end, p_end
        return Wire((absmax.astype("<f4", copy=False).tobytes(), packed.tobytes())), state

    def decode(wire: Wire, ref: Tree) -> Tree:
        check_sections(wire, streams(ref))
        absmax = np.frombuffer(wire.sections[0], "<f4").astype(np.float32, copy=False)
        packed = np.frombuffer(wire.sections[1], np.uint8)
        # As unsigned bits everything from +Inf on is +Inf, NaN or has a sign.
        if absmax.size and absmax.view(np.uint32).max() >= _INF_BITS:
            raise WireError("nf4: a scale is negative, NaN or Inf")
        tree = {}
        a = p = 0
        for name, r in ref.items():
            a_end, p_end = a + n_blocks(r.size), p + n_bytes(r.size)
            if r.size % 2 and packed[p_end - 1] & 15 != kernels.ZERO_CODE:
                raise WireError(f"nf4: {name!r} is padded with something else than zero's code")
            out = np.empty(r.size, np.float32)
            kernels.decode(packed[p:p_end], absmax[a:a_end], out, block)
            tree[name] = out.reshape(r.shape)
            a, p = a_end, p_end
        return tree

    return Codec(stateless, encode, decode, 2, streams)
