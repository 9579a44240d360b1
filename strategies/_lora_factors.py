"""The B and A that clients with a LoRA send, all clients' at once."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from omegaconf import DictConfig

from fl_app.config import ConfigError
from fl_app.tree import Tree

B_KEY, A_KEY = ".lora_B.default.weight", ".lora_A.default.weight"  # after the module's name


def modules(record: ArrayRecord) -> list[str]:
    """Return the names of the modules that ``record`` has B and A of.

    Raises
    ------
    ValueError
        If there are none, or factors of another kind than a linear layer's.
    """
    found = [name.removesuffix(B_KEY) for name in record if name.endswith(B_KEY)]
    pairs = {name + key for name in found for key in (B_KEY, A_KEY)}
    others = [
        name
        for name in record
        if ".lora_" in name and (name not in pairs or len(record[name].shape) != 2)
    ]
    if others or not found or not pairs <= {*record}:
        raise ValueError(
            f"{(others or ['the model'])[0]} is not what this strategy combines, B and A of linear "
            "layers: set adapter=lora, with linear layers alone in adapter.target_modules"
        )
    return found


def factors(replies: Sequence[Message]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield every module's name, B [clients, out, r] and A [clients, r, in], in float64."""
    records = [reply.content.array_records["arrays"] for reply in replies]
    for name in modules(records[0]):
        b, a = (
            np.stack([record[name + key].numpy().astype(np.float64) for record in records])
            for key in (B_KEY, A_KEY)
        )
        yield name, b, a


def weights(replies: Sequence[Message], key: str) -> np.ndarray:
    """Return what share of the mean every reply has by its metric ``key``, [clients]."""
    values = [cast(float, reply.content.metric_records["metrics"][key]) for reply in replies]
    return np.asarray(values) / np.sum(values)


def stacked(b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (B_1 ... B_K), [out, K r], and (A_1; ...; A_K), [K r, in].

    Their product is sum_k B_k A_k.

    Parameters
    ----------
    b, a : array
        [K, out, r] and [K, r, in].
    """
    return b.transpose(1, 0, 2).reshape(b.shape[1], -1), a.reshape(-1, a.shape[2])


def patch(name: str, b: np.ndarray, a: np.ndarray) -> Tree:
    """Return the product of B [out, rank] and A [rank, in] as a patch of the module."""
    return {f"{name}.B": _float32(b), f"{name}.A": _float32(a)}


def put(record: ArrayRecord, name: str, b: np.ndarray, a: np.ndarray) -> None:
    """Make ``b`` and ``a`` the factors of the module in ``record``."""
    record[name + B_KEY], record[name + A_KEY] = Array(_float32(b)), Array(_float32(a))


def _float32(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32, order="C")


def check_adapter(cfg: DictConfig) -> None:
    """Check that clients train both B and A; ConfigError if they do not."""
    if cfg.adapter.id != "lora":
        raise ConfigError(
            f"{cfg.strategy.inner._target_} combines B and A of clients that train both: set "
            f"adapter=lora, not {cfg.adapter.id}"
        )


def check_patching(cfg: DictConfig) -> None:
    """Check that clients train B and A over weights that can change; ConfigError if not."""
    check_adapter(cfg)
    if cfg.model.get("quantization", "none") != "none":
        raise ConfigError(
            f"{cfg.strategy.inner._target_} changes the weights under the LoRA, which "
            f"model.quantization={cfg.model.quantization} forbids: set model.quantization=none, or "
            "strategy=fedavg or flex_lora"
        )
