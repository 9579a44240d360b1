"""The client's half of client-level privacy: each client clips its own update.

With ``strategy=fedavg_dp_client``, whatever its method is. The length is the configuration's: a
message that says another is refused.
"""

from collections.abc import Mapping
from dataclasses import replace

from flwr.app import ConfigRecord
from omegaconf import DictConfig

from fl_app.codecs.by_part import MODEL
from fl_app.config import nested_strategies
from fl_app.faults import FaultError
from fl_app.privacy import CLIPPING_NORM
from fl_app.privacy.clipping import shortened
from fl_app.training.local import Answer
from fl_app.tree import Tree


def clipped(answer: Answer, parts: Mapping[str, Tree], length: float | None) -> Answer:
    """Return the answer with its model's update clipped to ``length``; as it is for None.

    Parameters
    ----------
    parts : dict of str to Tree
        What the client received; its model is where the update starts.
    """
    if length is None:
        return answer
    model = shortened(answer.parts[MODEL], parts[MODEL], length)
    return replace(answer, parts={**answer.parts, MODEL: model})


def clipping_norm(cfg: DictConfig, said: ConfigRecord) -> float | None:
    """Return the length to which clients clip their updates, None if they do not.

    Raises
    ------
    FaultError
        If the message says another, or nothing where there is one.
    """
    own = [
        part[CLIPPING_NORM] for part in nested_strategies(cfg) if part.get("clipped_by") == "client"
    ]
    norm = float(own[0]) if own else None
    if (other := said.get(CLIPPING_NORM)) != norm:
        raise FaultError("other_value", key=CLIPPING_NORM, said=str(other), own=str(norm))
    return norm
