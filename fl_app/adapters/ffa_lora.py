"""FFA-LoRA (Sun et al. 2024, https://arxiv.org/abs/2403.12313): W = W0 + alpha/r B A, A frozen.

Every machine draws the same A from the seed (to float32's last bit where a processor has no FMA:
nothing compares them), and only B, which starts as 0, trains and is sent.
The product is linear in B: mean_k(B_k) A = mean_k(B_k A), so that the mean of FedAvg is exactly the
mean of the clients' updates, at about half of LoRA's bytes.
"""

from omegaconf import DictConfig
from peft import PeftModel
from transformers import PreTrainedModel

from fl_app.adapters import lora
from fl_app.adapters.full import get, set
from fl_app.adapters.lora import export

__all__ = ["attach", "export", "get", "set"]

FROZEN = (".lora_A.", ".lora_embedding_A.")


def attach(model: PreTrainedModel, cfg: DictConfig, seed: int) -> PeftModel:
    """Wrap ``model`` as LoRA does; B, ``modules_to_save`` and a classifier's head train.

    Raises
    ------
    ValueError
        As `lora.attach` does.
    """
    wrapped = lora.attach(model, cfg, seed)
    for name, parameter in wrapped.named_parameters():
        if any(factor in name for factor in FROZEN):
            parameter.requires_grad_(False)
    return wrapped
