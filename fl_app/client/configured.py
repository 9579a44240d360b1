"""What a message says of the method: held against the run's configuration, which decides.

Of a training message's config a server chooses at will ``partition`` (a node with rows of its own
answers for one), ``server-round`` (of which batches and dropout follow), ``accepted`` (which of its
codec's two memories a client goes on from) and the secrets of secure aggregation, which
``Member`` checks. What decides how long an update can be, or what it is pulled to, is not its to
choose: ``proximal-mu`` of FedProx, and the length to which clients clip their updates.
"""

from collections.abc import Iterator
from typing import Any

from flwr.app import ConfigRecord
from omegaconf import DictConfig

from fl_app.config import plain
from fl_app.faults import FaultError
from fl_app.privacy import CLIPPING_NORM

PROXIMAL_MU = "proximal-mu"


def proximal_mu(cfg: DictConfig, said: ConfigRecord) -> float:
    """Return the weight of FedProx's pull, 0 for none.

    Raises
    ------
    FaultError
        If the message says another.
    """
    own = next((float(part["proximal_mu"]) for part in _parts(cfg) if "proximal_mu" in part), 0.0)
    _check(PROXIMAL_MU, said.get(PROXIMAL_MU, own), own)
    return own


def clipping_norm(cfg: DictConfig, said: ConfigRecord) -> float | None:
    """Return the length to which clients clip their updates, None if they do not.

    Raises
    ------
    FaultError
        If the message says another, or nothing where there is one.
    """
    own = [part[CLIPPING_NORM] for part in _parts(cfg) if part.get("clipped_by") == "client"]
    norm = float(own[0]) if own else None
    _check(CLIPPING_NORM, said.get(CLIPPING_NORM), norm)
    return norm


def _parts(cfg: DictConfig) -> Iterator[dict[str, Any]]:
    """Yield the strategies of the configuration, a wrapper before what it is around."""
    part = plain(cfg.strategy.inner)
    while isinstance(part, dict):
        yield part
        part = part.get("strategy")


def _check(key: str, said: object, own: float | None) -> None:
    if said != own:
        raise FaultError("other_value", key=key, said=str(said), own=str(own))
