"""The senders that are compared: copies, bitsandbytes, NVFlare, and the codecs of this project.

Each gets its input in its own form, before the clock runs: bitsandbytes torch tensors, NVFlare a
dict of numpy arrays. What counts as sent:

- our codecs: the whole frame (`fl_app.wire.frame.pack`): header, section lengths, sections;
- bitsandbytes: codes and scales, without the shapes, sizes and dtypes of its `QuantState`;
- NVFlare: the message that its own serializer (FOBS) writes;
- constriction and zstd: the levels of our ``uniform`` as each codes them, its steps, and of
  constriction's coder 2 bytes for each frequency.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_app.codecs import Codec, Spec, Tree, uniform
from fl_app.codecs.base import Wire
from fl_app.tree import zeros
from fl_app.wire.frame import pack, unpack

INSTALL = "pip install --no-deps {}, into .venv or a folder on PYTHONPATH"


@dataclass(frozen=True)
class Sender:
    """How one set of tensors is sent.

    Attributes
    ----------
    name : str
        Its name in tables.
    encode : callable
        ``encode() -> message``.
    decode : callable
        ``decode(message) -> values``; the message stays as it is.
    nbytes : callable
        ``nbytes(message) -> int``, all bytes that are sent.
    arrays : callable
        ``arrays(values) -> list of numpy arrays``, one per tensor, of what decode returned.
    spec : dict, optional
        Of a codec of this project.
    """

    name: str
    encode: Callable[[], Any]
    decode: Callable[[Any], Any]
    nbytes: Callable[[Any], int]
    arrays: Callable[[Any], list[np.ndarray]]
    spec: Spec | None = None


def relative_error(tree: Tree, arrays: list[np.ndarray]) -> float:
    """Return ``|decoded - x|_2 / |x|_2`` over all values."""
    pairs = zip(tree.values(), arrays, strict=True)
    wrong = [np.linalg.norm(y.reshape(-1) - x.reshape(-1)) for x, y in pairs]
    return float(np.linalg.norm(wrong) / np.linalg.norm([np.linalg.norm(x) for x in tree.values()]))


def ours(name: str, codec: Codec, tree: Tree) -> Sender:
    """Return a codec as the app calls it, with a reference of zeros: Tree to sections to Tree."""
    ref = zeros(tree)
    return Sender(
        name,
        lambda: codec.encode(tree, codec.init(ref), ref)[0],
        lambda wire: codec.decode(wire, ref),
        lambda wire: len(pack(wire, codec, bytes(8))),
        lambda decoded: list(decoded.values()),
        codec.spec,
    )


def frame(name: str, codec: Codec, tree: Tree) -> Sender:
    """Return the frame around the sections of a codec, with its CRC-32 and copy; no codec."""
    ref = zeros(tree)
    wire, _ = codec.encode(tree, codec.init(ref), ref)
    return Sender(
        name,
        lambda: pack(wire, codec, bytes(8)),
        lambda sent: unpack(sent, codec, bytes(8)),
        len,
        lambda received: list(codec.decode(received, ref).values()),
    )


def copies(tree: Tree) -> list[Sender]:
    """Return plain copies of the memory, which no codec can be expected to beat."""
    source = list(tree.values())
    there = [x.copy() for x in source]

    def into_old() -> list[np.ndarray]:
        for to, x in zip(there, source, strict=True):
            np.copyto(to, x)
        return there

    def into_new() -> list[np.ndarray]:
        return [x.copy() for x in source]

    def sender(name: str, copy: Callable[[], list[np.ndarray]]) -> Sender:
        return Sender(
            name,
            copy,
            lambda _: copy(),
            lambda arrays: sum(x.nbytes for x in arrays),
            lambda arrays: arrays,
        )

    return [sender("memcpy", into_old), sender("memcpy into new memory", into_new)]


def bitsandbytes(tree: Tree) -> list[Sender]:
    """Return its NF4 of flattened tensors and of tensors as they are, and its blockwise 8 bits.

    With AVX-512 it decodes some shapes wrongly and does not report it: see the error of "as is".
    """
    import torch
    from bitsandbytes import functional as bnb

    whole = [torch.from_numpy(x) for x in tree.values()]
    flat = [x.reshape(-1) for x in whole]

    def nf4(tensors: list) -> list:
        return [bnb.quantize_4bit(x, blocksize=64, quant_type="nf4") for x in tensors]

    def sender(name: str, encode: Callable[[], list], decode: Callable) -> Sender:
        return Sender(
            f"bitsandbytes {name}",
            encode,
            lambda coded: [decode(codes, state) for codes, state in coded],
            lambda coded: sum(codes.nbytes + state.absmax.nbytes for codes, state in coded),
            lambda decoded: [x.numpy() for x in decoded],
        )

    return [
        sender("nf4, flattened", lambda: nf4(flat), bnb.dequantize_4bit),
        sender("nf4, as is", lambda: nf4(whole), bnb.dequantize_4bit),
        sender(
            "8 bit", lambda: [bnb.quantize_blockwise(x) for x in flat], bnb.dequantize_blockwise
        ),
    ]


def nvflare(tree: Tree) -> list[Sender]:
    """Return its quantizer and dequantizer filters, of the types that do not call ``.cuda()``.

    Raises
    ------
    ImportError
        It, or something that it needs, is not installed.
    """
    from nvflare.apis.dxo import DXO, DataKind
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable
    from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
    from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer
    from nvflare.app_opt.pt.quantization.quantizer import ModelQuantizer
    from nvflare.fuel.utils import fobs

    fobs.register(NumpyArrayDecomposer)
    context, dequantizer = FLContext(), ModelDequantizer()

    def decode(message: Any) -> dict:
        with warnings.catch_warnings():  # of torch, about read-only buffers
            warnings.simplefilter("ignore", UserWarning)
            copy = DXO(message.data_kind, data=dict(message.data), meta=dict(message.meta))
            return dequantizer.process_dxo(copy, Shareable(), context).data

    def sender(kind: str) -> Sender:
        quantizer = ModelQuantizer(kind)
        return Sender(
            f"NVFlare {kind}",
            lambda: quantizer.process_dxo(
                DXO(DataKind.WEIGHT_DIFF, data=dict(tree)), Shareable(), context
            ),
            decode,
            lambda message: len(fobs.dumps(message.to_shareable())),
            lambda data: [data[key] for key in tree],
        )

    return [sender("float16"), sender("adaquant")]


def constriction(tree: Tree) -> list[Sender]:
    """Return its ANS coder behind our ``uniform``, in place of ``entropy``.

    Raises
    ------
    ImportError
        It is not installed.
    """
    import constriction as library

    model, coder_of = library.stream.model.Categorical, library.stream.stack.AnsCoder

    def encode(levels: bytes) -> tuple[Any, Any, int]:
        symbols = np.frombuffer(levels, np.uint8)
        counts = np.bincount(symbols)
        coder = coder_of()
        coder.encode_reverse(symbols.astype(np.int32), _model(counts))
        return counts, coder.get_compressed(), symbols.size

    def _model(counts: np.ndarray) -> Any:
        return model(counts.astype(np.float32), perfect=False)

    def decode(coded: tuple[Any, Any, int]) -> bytes:
        counts, words, size = coded
        return coder_of(words).decode(_model(counts), size).astype(np.uint8).tobytes()

    return [
        _around_levels("constriction", tree, encode, decode, lambda c: 2 * c[0].size + c[1].nbytes)
    ]


def zstd(tree: Tree) -> list[Sender]:
    """Return zstd behind our ``uniform``, in place of ``entropy``."""
    import zstandard

    pack, read = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    return [_around_levels("zstd 3", tree, pack.compress, read.decompress, len)]


def _around_levels(
    name: str,
    tree: Tree,
    encode: Callable[[bytes], Any],
    decode: Callable[[Any], bytes],
    nbytes: Callable[[Any], int],
) -> Sender:
    """Return a sender that codes the levels of ``uniform`` at error 0.092 with another coder."""
    codec, ref = uniform(error=0.092), zeros(tree)

    def encoded() -> tuple[Any, Any, Any]:
        steps, levels, large = codec.encode(tree, codec.init(ref), ref)[0].sections
        return steps, encode(bytes(levels)), large

    return Sender(
        f"{name}(uniform 0.092)",
        encoded,
        lambda m: codec.decode(Wire((m[0], decode(m[1]), m[2])), ref),
        lambda m: len(m[0]) + nbytes(m[1]) + len(m[2]),
        lambda decoded: list(decoded.values()),
    )
