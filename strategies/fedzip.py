"""FedZip (Malekijoo et al. 2021, https://arxiv.org/abs/2102.01593): the mean of small updates.

A client trains the model w that it received, and sends of each tensor j::

    Delta_j = w_j,trained - w_j,received
    top-z:      the z n_j entries of largest magnitude stay, the others become 0
    k-means:    every entry becomes the nearest of three centroids c_1 <= c_2 <= c_3
    encoding:   Huffman, a table of addresses, or the differences of addresses

by ``fl_app/codecs/fedzip.py``, which takes the cheapest encoding of each tensor. The server decodes
and adds the mean by the numbers of examples n_k::

    w <- w + sum_k n_k Delta_k / sum_k n_k.

The model goes down uncompressed. Nothing remembers what was left out; error feedback is an option
of ours, see docs/methods.md. Reconstructed: the differences of addresses are published without a
code that could be read, here they are Rice coded.
"""

from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import FedAvg
from omegaconf import DictConfig

from fl_app.config import ConfigError, plain

CODEC = "fedzip"


class FedZip(FedAvg):
    """The mean of the clients' models, whose changes came through the codec ``fedzip``."""

    mean_type = True

    def check(self, cfg: DictConfig) -> None:
        """Check that clients send changes since the broadcast by this codec; ConfigError if not."""
        if not _contains(plain(cfg.codec.up), CODEC):
            raise ConfigError(
                "codec.up has no fedzip in it, which is all of strategy=fedzip: set codec=fedzip"
            )
        if cfg.codec.reference != "broadcast":
            raise ConfigError(
                f"codec.reference={cfg.codec.reference} should be broadcast with strategy=fedzip: "
                "a client sends what its training changed"
            )


def _contains(spec: Any, codec_id: str) -> bool:
    """Return whether a codec of this id is in a spec."""
    if isinstance(spec, Mapping):
        return spec.get("id") == codec_id or any(_contains(v, codec_id) for v in spec.values())
    return isinstance(spec, list) and any(_contains(one, codec_id) for one in spec)
