"""Write the golden frames, which fix the bytes of each format: ``python tests/make_golden.py``.

Run it by hand for a new codec. It writes what is missing, and refuses if a frame that exists would
change: raise the frame's version first, and remove the old frames. No test writes a golden frame.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"
DIGESTS = FOLDER / "decoded.json"

SPECS = {
    "fp32": {"id": "fp32"},
    "fp16": {"id": "fp16"},
    "nf4": {"id": "nf4", "block": 64},
    "nf4_16": {"id": "nf4", "block": 16},
    # The change has scales that half precision cannot represent.
    "nf4_fp16": {"id": "chain", "links": [{"id": "delta"}, {"id": "nf4", "scale": "fp16"}]},
    "nf4_dq": {"id": "nf4", "scale": "int8"},
    "fp4": {"id": "fp4"},
    "int8": {"id": "int8"},
    "int8_dq": {"id": "int8", "block": 16, "scale": "int8"},
    "delta_fp32": {"id": "chain", "links": [{"id": "delta"}, {"id": "fp32"}]},
    "delta_nf4": {"id": "chain", "links": [{"id": "delta"}, {"id": "nf4", "block": 64}]},
    "top_k": {"id": "chain", "links": [{"id": "top_k", "fraction": 0.1}, {"id": "fp32"}]},
    "top_k_tree": {
        "id": "chain",
        "links": [{"id": "top_k", "fraction": 0.1, "scope": "tree"}, {"id": "fp32"}],
    },
    "random_k": {"id": "chain", "links": [{"id": "random_k", "fraction": 0.1}, {"id": "fp32"}]},
    "low_rank": {"id": "chain", "links": [{"id": "low_rank", "rank": 2}, {"id": "fp32"}]},
    "uniform": {"id": "uniform", "error": 0.05},
    "uniform_middle": {"id": "uniform", "error": 0.3, "centroid": False},
    "uniform_grid": {"id": "uniform", "error": 0.3, "grid": True},
    "uniform_escapes": {"id": "uniform", "error": 0.001, "scope": "tensor"},
    "uniform_bits": {"id": "uniform", "bits": 4},
    "uniform_dither": {"id": "uniform", "bits": 2, "dither": True},
    "uniform_aquila": {"id": "uniform", "adaptive": True},
    "modular": {"id": "modular", "clip": 3.0, "bits": 12, "clients": 10},
    "modular_wide": {
        "id": "chain",
        "links": [
            {"id": "delta"},
            {"id": "modular", "clip": 8, "bits": 20, "clients": 9, "max_weight": 999},
        ],
    },
    "sign": {"id": "sign"},
    "sign_16": {"id": "sign", "scope": 16},
    "sign_norm": {"id": "sign", "scale": "norm"},
    "sign_one": {"id": "sign", "scale": "one"},
    "ternary": {"id": "ternary"},
    "kmeans": {"id": "kmeans", "scope": "tensor"},
    "kmeans_5": {"id": "kmeans", "centroids": 5},
    "fedzip": {"id": "fedzip"},
    # One centroid for what is pruned, one group: the cheapest encodings are others.
    "fedzip_free": {"id": "fedzip", "fraction": 0.02, "pinned": False, "scope": "tree"},
    "error_feedback": {"id": "error_feedback", "inner": {"id": "nf4"}},
    "shift": {"id": "shift", "inner": {"id": "nf4"}},
    "momentum_correction": {"id": "momentum_correction", "inner": {"id": "nf4"}},
    "nonzero": {"id": "nonzero", "inner": {"id": "nf4"}},
    "by_part": {
        "id": "by_part",
        "codecs": [{"id": "nf4"}, {"id": "entropy", "inner": {"id": "fp16"}}],
        "names": ["model", "control"],
    },
    # Sections of each coder but zstd, whose bytes may change with its version.
    "entropy_rans": {
        "id": "entropy",
        "inner": {"id": "chain", "links": [{"id": "delta"}, {"id": "nf4", "block": 64}]},
    },
    "entropy_context": {"id": "entropy", "inner": {"id": "uniform", "error": 0.3}, "context": True},
    "entropy_beside": {"id": "entropy", "inner": {"id": "uniform", "bits": 3}, "context": True},
    "entropy_planes": {"id": "entropy", "inner": {"id": "fp16"}},
    "entropy_golomb": {
        "id": "entropy",
        "inner": {"id": "chain", "links": [{"id": "top_k", "fraction": 0.03}, {"id": "fp32"}]},
    },
}
SHAPES = {"full": (2, 64), "short": (9, 8), "odd": (3,), "scalar": (), "none": (0, 4)}


def tree(salt: int) -> dict[str, np.ndarray]:
    """Return values k / 512 with |k| < 2048 from a multiplicative hash.

    They are exact in every float format.
    """
    out, i = {}, salt
    for name, shape in SHAPES.items():
        values = []
        for _ in range(int(np.prod(shape))):
            i += 1
            values.append(((i * 2654435761 % 2**32) >> 20) - 2048 + 1)
        out[name] = (np.array(values, np.float32) / np.float32(512)).reshape(shape)
    return out


def frame(spec: dict) -> bytes:
    """Return the golden tree, encoded and packed."""
    from fl_app.codecs import from_spec
    from fl_app.wire.frame import manifest, pack

    codec, ref = from_spec(spec), tree(salt=1000)
    wire, _ = codec.encode(tree(salt=0), codec.init(ref), ref)
    return pack(wire, codec, manifest(ref))


def decoded(spec: dict, data: bytes) -> str:
    """Return the digest of the values that a golden frame decodes to."""
    from fl_app.codecs import from_spec
    from fl_app.tree import digest
    from fl_app.wire.frame import manifest, unpack

    codec, ref = from_spec(spec), tree(salt=1000)
    return digest(codec.decode(unpack(data, codec, manifest(ref)), ref))


def main() -> None:
    """Write every golden frame and the digests of the decoded values."""
    FOLDER.mkdir(exist_ok=True)
    digests = {}
    for name, spec in SPECS.items():
        data, path = frame(spec), FOLDER / f"{name}.bin"
        if path.exists() and path.read_bytes() != data:
            raise SystemExit(f"{path} would change: other bytes need another version of the frame")
        path.write_bytes(data)
        digests[name] = decoded(spec, data)
        print(f"{name}.bin: {len(data)} bytes")
    DIGESTS.write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
