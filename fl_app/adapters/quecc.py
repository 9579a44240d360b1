"""QueCC's first stage (Li et al. 2024): the compressor and the projector learn, nothing else.

For a VT5 with ``quecc`` in its config, see ``fl_app.models.quecc``. What is exported is the whole
model: with ``model.config.quecc.frozen=true`` it is a base whose text part another adapter trains.
"""

from omegaconf import DictConfig
from transformers import PreTrainedModel

from fl_app.adapters.full import export, get, set

__all__ = ["attach", "export", "get", "set"]

TRAINED = ("quecc", "visual_matcher")


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PreTrainedModel:
    """Make the compressor and the projector trainable. theta0 is the model itself.

    Raises
    ------
    ValueError
        If the model has no compressor.
    """
    if not hasattr(model, "quecc"):
        raise ValueError(
            "adapter=quecc trains what compresses a picture's tokens, and the model has none: set "
            "model=vt5-tiny-quecc, or model.config.quecc of a VT5 that sees pictures"
        )
    model.requires_grad_(False)
    for name in TRAINED:
        model.get_submodule(name).requires_grad_(True)
    return model
