"""Tensors as bytes that describe themselves: what a codec makes of a state dict, in one piece.

A frame of a run says neither which codec wrote it nor what it holds, since both sides know. Here
the same frame stands behind a description. All numbers little-endian::

    offset  bytes  field
         0      4  magic "TWTS"
         4      1  version of the description
         5      3  reserved, zero
         8      4  length of the description
        12      4  CRC-32 of the 12 bytes before it and of the description
        16         description: JSON with ``codec``, the spec; ``tensors``, names and shapes in
                   order, or null if they are those of a reference that the reader has; and
                   ``torch``, whether they were torch tensors
                   then the frame, see ``fl_app.wire.frame``, whose manifest is that of the
                   reference, or made of the description if there is none

Nothing in these bytes is trusted. Frames of version 2 are read too: files outlive versions.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fl_app.codecs import Codec, Spec, WireError, from_spec
from fl_app.tree import Tree, manifest
from fl_app.wire import former
from fl_app.wire.frame import pack, unpack

MAGIC = b"TWTS"
VERSION = 1
LARGEST_DESCRIPTION = 2**20  # bytes; the names of a large model's tensors take a tenth
MOST_NESTED = 32  # codecs in a spec
MOST_VALUES = 2**28  # of 4 bytes; a codec needs up to three times that while it decodes
MOST_DIMENSIONS = 64  # numpy's
_HEAD = struct.Struct("<4sB3sI")
_U32 = struct.Struct("<I")
START = _HEAD.size + _U32.size
_RESERVED = bytes(3)


def compress(
    tensors: Mapping[str, Any], spec: Spec, like: Mapping[str, Any] | None = None
) -> bytes:
    """Return tensors as bytes that `decompress` reads, coded by any codec of this project.

    Parameters
    ----------
    tensors : mapping of str to Tensor or array
        A state dict, such as that of an adapter: values of 16 or 32 bits, of torch or numpy.
    spec : mapping
        The codec, see `from_spec`: ``{"id": "nf4"}``. Values come back within its error bound.
    like : mapping or None
        A reference with the same names and shapes, which the reader has too, such as the weights
        before training; both sides give it in the same order. The codec ``delta`` sends the change
        since it.

    Returns
    -------
    bytes
        The codec's payload, and some hundred bytes that describe it. The same input gives the same
        bytes: stochastic codecs draw from a fixed seed.

    Raises
    ------
    TypeError
        If the tensors are not a mapping of names to tensors or arrays of 16 or 32 bits.
    ValueError
        If the spec is wrong, or leaves values to encode (end a chain with fp32 or nf4); the tensors
        are not those of ``like``; or hold NaN or Inf.

    Examples
    --------
    >>> import fl_app, numpy as np
    >>> weights = {"lora_A": np.linspace(-1, 1, 4096, dtype=np.float32).reshape(64, 64)}
    >>> data = fl_app.compress(weights, {"id": "nf4"})  # 4 bits a value, and a scale per block
    >>> 4096 * 4 // len(data)
    6

    The change since a reference is smaller, and so are its errors:

    >>> trained = {"lora_A": weights["lora_A"] + np.float32(0.01)}
    >>> spec = {"id": "chain", "links": [{"id": "delta"}, {"id": "nf4"}]}
    >>> data = fl_app.compress(trained, spec, like=weights)
    >>> back = fl_app.decompress(data, like=weights)
    >>> bool(np.abs(back["lora_A"] - trained["lora_A"]).max() < 0.001)
    True
    """
    codec = from_spec(spec)
    tree, torch = _tree("tensors", tensors)
    if like is None:
        tensors_of: list[Any] | None = [[name, list(x.shape)] for name, x in tree.items()]
        reference = _zeros(tensors_of or [])
    else:
        tensors_of, reference = None, _tree("like", like)[0]
        tree = {name: tree[name] for name in reference if name in tree} | tree
    description = _described({"codec": codec.spec, "tensors": tensors_of, "torch": torch})
    if len(description) > LARGEST_DESCRIPTION:
        raise ValueError("the names of the tensors are too long: compress them in parts")
    wire, _ = codec.encode(tree, codec.init(reference), reference)
    head = _HEAD.pack(MAGIC, VERSION, _RESERVED, len(description))
    crc = _U32.pack(zlib.crc32(description, zlib.crc32(head)))
    whole = _manifest(description, like is not None, reference)
    return b"".join([head, crc, description, pack(wire, codec, whole)])


def decompress(
    data: bytes | bytearray | memoryview,
    like: Mapping[str, Any] | None = None,
    most_values: int = MOST_VALUES,
) -> dict[str, Any]:
    """Return the tensors that `compress` was given, within the error bound of its codec.

    Parameters
    ----------
    data : bytes
        From `compress`. Nothing in it is trusted.
    like : mapping or None
        The reference that it was compressed with, if any, in the same order.
    most_values : int
        Refuse what announces more values, before memory is taken for them. Some hundred bytes can
        stand for many equal values. Memory: 4 bytes a value, up to three times while decoding.

    Returns
    -------
    dict of str to Tensor or array
        In float32, on the CPU; tensors of torch if such were compressed.

    Raises
    ------
    WireError
        If the bytes are damaged, are of another version, or belong to another reference.
    ValueError
        If ``like`` is missing, or given where none was used. (A WireError is a ValueError.)

    Examples
    --------
    >>> import fl_app, torch
    >>> data = fl_app.compress(torch.nn.Linear(8, 2).state_dict(), {"id": "fp16"})
    >>> {name: tuple(tensor.shape) for name, tensor in fl_app.decompress(data).items()}
    {'weight': (2, 8), 'bias': (2,)}
    >>> fl_app.decompress(data[:-1])
    Traceback (most recent call last):
    fl_app.codecs.base.WireError: damaged or truncated: the CRC-32 does not match
    """
    view = memoryview(data).cast("B")
    description, said = _description(view)
    codec, tensors, torch = _read(said)
    if tensors is None and like is None:
        raise ValueError("it was compressed with like=: give the same reference")
    if tensors is not None and like is not None:
        raise ValueError("it was compressed without like=: leave it out")
    if tensors is not None:
        _check_size(tensors, most_values)
    reference = _zeros(tensors) if tensors is not None else _tree("like", like or {})[0]
    whole = _manifest(description, like is not None, reference)
    try:
        wire = unpack(former.today(view[START + len(description) :]), codec, whole)
    except WireError as error:
        if error.kind != "other_model":
            raise
        what = (
            "damaged: the frame is not that of the description"
            if like is None
            else "like is not the reference that it was compressed with"
        )
        raise WireError(what, kind="other_model") from None
    tree = codec.decode(wire, reference)
    if not torch:
        return dict(tree)
    from torch import from_numpy

    return {name: from_numpy(values) for name, values in tree.items()}


def _tree(what: str, tensors: Mapping[str, Any]) -> tuple[Tree, bool]:
    """Return tensors as a Tree, and whether any of them is a torch tensor."""
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise TypeError(
            f"{what} should be a mapping of names to tensors or arrays, such as "
            f"model.state_dict(), not {type(tensors).__name__}"
        )
    torch = sys.modules.get("torch")  # without it there are no tensors of its own
    found: Tree = {}
    any_torch = False
    for name, x in tensors.items():
        if torch is not None and isinstance(x, torch.Tensor):
            any_torch = True
            fits = x.dtype in (torch.float16, torch.bfloat16, torch.float32)
            values = x.detach().to("cpu", torch.float32).numpy() if fits else None
        else:
            fits = isinstance(x, np.ndarray) and x.dtype in (np.float16, np.float32)
            values = x if fits else None
        if values is None:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(
                f"{what}[{name!r}] is of {kind}, not of float32, float16 or bfloat16: convert it, "
                "or leave it out"
            )
        found[name] = np.asarray(values, dtype=np.float32, order="C")
    return found, any_torch


def _zeros(tensors: list[Any]) -> Tree:
    try:
        return {name: np.zeros(shape, np.float32) for name, shape in tensors}
    except (ValueError, MemoryError) as error:
        raise WireError(f"its tensors do not fit the memory: {error}") from None


def _check_size(tensors: list[Any], most_values: int) -> None:
    values = sum(math.prod(shape) for _, shape in tensors)
    if values > most_values:
        raise WireError(
            f"it announces {values:,} values, more than most_values={most_values:,}: raise that "
            "for bytes from a source that you trust"
        )


def _described(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _manifest(description: bytes, has_reference: bool, reference: Tree) -> bytes:
    """Return the 8 bytes of the frame's header that say what it belongs to."""
    return manifest(reference) if has_reference else hashlib.sha256(description).digest()[:8]


def _description(view: memoryview) -> tuple[bytes, dict[str, Any]]:
    """Return the description in front of the frame, as bytes and as what it says."""
    if bytes(view[:4]) != MAGIC:
        raise WireError("not made by compress: it does not start with 'TWTS'")
    if len(view) < START:
        raise WireError(f"truncated: {len(view)} bytes")
    _, version, reserved, length = _HEAD.unpack_from(view)
    (crc,) = _U32.unpack_from(view, _HEAD.size)
    if version != VERSION or reserved != _RESERVED:
        raise WireError(
            f"version {version}, this side reads {VERSION}: install the same Thinwire version on "
            "both sides",
            kind="other_version",
            version=version,
            reads=VERSION,
        )
    if length > LARGEST_DESCRIPTION or len(view) < START + length:
        raise WireError(f"truncated: a description of {length:,} bytes does not fit")
    description = bytes(view[START : START + length])
    if zlib.crc32(description, zlib.crc32(view[: _HEAD.size])) != crc:
        raise WireError("damaged: the CRC-32 does not match, bytes changed on the way")
    try:
        said = json.loads(description)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise WireError("the description is no JSON mapping")
    return description, said


def _read(said: dict[str, Any]) -> tuple[Codec, list[Any] | None, bool]:
    """Return codec, names with shapes, and whether tensors of torch were compressed."""
    spec = said.get("codec") or {}
    if _nested(spec) > MOST_NESTED:
        raise WireError(f"its codec is made of more than {MOST_NESTED} others")
    try:
        codec = from_spec(spec)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise WireError(f"its codec is none of this version: {error}") from None
    if not codec.terminal:
        raise WireError("its codec leaves values to encode")
    tensors = said.get("tensors")
    if tensors is not None and not (
        isinstance(tensors, list)
        and all(map(_is_tensor, tensors))
        and len({name for name, _ in tensors}) == len(tensors)
    ):
        raise WireError("the description does not list names and shapes")
    return codec, tensors, said.get("torch") is True


def _nested(spec: Any) -> int:
    """Return how many mappings and lists a spec is made of."""
    todo, found = [spec], 0
    while todo:
        one = todo.pop()
        if isinstance(one, dict | list):
            found += 1
            todo += one.values() if isinstance(one, dict) else one
    return found


def _is_tensor(said: Any) -> bool:
    """Tell whether this is a name and a shape."""
    if not isinstance(said, list) or len(said) != 2 or not isinstance(said[0], str):
        return False
    shape = said[1]
    return (
        isinstance(shape, list)
        and len(shape) <= MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**63 for size in shape)
    )
