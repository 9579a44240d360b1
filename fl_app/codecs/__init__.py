"""Codecs: what a Tree becomes on the wire. One codec a file; `from_spec` builds any of them.

To add one, write a factory in a new file, decorate it with `register`, import it here, and add it
to the table of tests/codecs/test_codec_laws.py.
"""

from fl_app.codecs.base import Codec, CodecError, Spec, State, Stream, Wire, WireError, receive
from fl_app.codecs.by_part import by_part
from fl_app.codecs.chain import chain
from fl_app.codecs.delta import delta
from fl_app.codecs.entropy import entropy
from fl_app.codecs.error_feedback import error_feedback
from fl_app.codecs.fedzip import fedzip
from fl_app.codecs.floats import fp16, fp32
from fl_app.codecs.fp4 import fp4
from fl_app.codecs.int8 import int8
from fl_app.codecs.kmeans import kmeans
from fl_app.codecs.low_rank import low_rank
from fl_app.codecs.modular import modular
from fl_app.codecs.momentum_correction import momentum_correction
from fl_app.codecs.nf4 import nf4
from fl_app.codecs.nonzero import nonzero
from fl_app.codecs.random_k import random_k
from fl_app.codecs.registry import from_spec, known_ids, register
from fl_app.codecs.shift import shift
from fl_app.codecs.sign import sign
from fl_app.codecs.ternary import ternary
from fl_app.codecs.top_k import top_k
from fl_app.codecs.uniform import uniform
from fl_app.tree import Tree

__all__ = [
    "Codec",
    "CodecError",
    "Spec",
    "State",
    "Stream",
    "Tree",
    "Wire",
    "WireError",
    "by_part",
    "chain",
    "delta",
    "entropy",
    "error_feedback",
    "fedzip",
    "fp4",
    "fp16",
    "fp32",
    "from_spec",
    "int8",
    "kmeans",
    "known_ids",
    "low_rank",
    "modular",
    "momentum_correction",
    "nf4",
    "nonzero",
    "random_k",
    "receive",
    "register",
    "shift",
    "sign",
    "ternary",
    "top_k",
    "uniform",
]
