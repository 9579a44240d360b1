"""Zstandard (RFC 8878), for bytes that repeat: a frame without magic number, size or checksum."""

from __future__ import annotations

import zstandard

from fl_app.codecs.base import WireError

_MAGICLESS = zstandard.FORMAT_ZSTD1_MAGICLESS
_MIN_WINDOW, _MAX_WINDOW = 2**10, 2**20
_LEVEL = 9


def encode(raw: bytes) -> bytes:
    """Return the frame, whose bytes may depend on the version of the library, not the machine."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(raw),
        window_log=min(max(_MIN_WINDOW, len(raw)) - 1, _MAX_WINDOW - 1).bit_length(),
        format=_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


def decode(data: bytes, nbytes: int) -> bytes:
    """Return the ``nbytes`` bytes.

    Raises
    ------
    WireError
        Not a frame of this number of bytes, or one that asks for more memory than they take.
    """
    try:
        frame = zstandard.get_frame_parameters(data, format=_MAGICLESS)
        sized = frame.content_size != zstandard.CONTENTSIZE_UNKNOWN
        if sized or frame.has_checksum or frame.dict_id:
            raise WireError("zstd: a frame with size, checksum or dictionary")
        if frame.window_size > max(2 * nbytes, _MIN_WINDOW):
            raise WireError(f"zstd: a window of {frame.window_size} bytes for {nbytes}")
        raw = zstandard.ZstdDecompressor(format=_MAGICLESS).decompress(
            data, max_output_size=nbytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise WireError(f"zstd: {error}") from None
    if len(raw) != nbytes:
        raise WireError(f"zstd: {len(raw)} bytes, expected {nbytes}")
    return raw
