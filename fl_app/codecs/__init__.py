"""Codecs: what a Tree becomes on the wire. One codec a file; `from_spec` builds any of them.

To add one, write a factory in a new file, decorate it with `register`, import it here, and add it
to the table of tests/test_codec_laws.py.
"""

from fl_app.codecs.base import (
    Codec,
    CodecError,
    Spec,
    State,
    Stream,
    Tree,
    Wire,
    WireError,
    from_spec,
    known_ids,
    receive,
    register,
)
from fl_app.codecs.chain import chain
from fl_app.codecs.delta import delta
from fl_app.codecs.floats import fp16, fp32
from fl_app.codecs.nf4 import nf4

__all__ = [
    "Codec",
    "CodecError",
    "Spec",
    "State",
    "Stream",
    "Tree",
    "Wire",
    "WireError",
    "chain",
    "delta",
    "fp16",
    "fp32",
    "from_spec",
    "known_ids",
    "nf4",
    "receive",
    "register",
]
