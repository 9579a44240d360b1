"""LoRA-SB as a variant of PEFT's LoRA: W = W0 + s B R A, s = alpha/r, and only R trains.

Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557. B (out x r) and A (r x in) are PEFT's own
``lora_B`` and ``lora_A``, frozen; R (r x r) is ``lora_R`` between them. It is an ``nn.Linear``,
since hooks on layers (those of Opacus, for per-example gradients) do not see a bare parameter.

``LoraVariant`` and custom modules are PEFT's private interface: pyproject.toml pins its minor
version.
"""

from typing import Any, NamedTuple, cast

from bitsandbytes import nn as bnb
from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from peft.tuners.lora.variants import _register_frozen_peft_weight
from torch import Tensor, nn

from fl_app.adapters.quantized import QUANTIZED

ADAPTER = "default"  # PEFT's name of the one adapter of a model


class Parts(NamedTuple):
    """The layers of B, R and A."""

    B: nn.Linear
    R: nn.Linear
    A: nn.Linear


class Sandwich(LoraVariant):
    """R between A and B."""

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Add R = 0 to a layer that has B and A, and freeze these."""
        if not hasattr(module, "lora_R"):
            module.lora_R = nn.ModuleDict()
            module.adapter_layer_names = (*module.adapter_layer_names, "lora_R")
        r = module.r[adapter_name]
        module.lora_R[adapter_name] = nn.Linear(r, r, bias=False)
        nn.init.zeros_(module.lora_R[adapter_name].weight)
        module._move_adapter_to_device_of_base_layer(adapter_name)
        for outer in ("lora_A", "lora_B"):
            _register_frozen_peft_weight(module, adapter_name, outer)

    @staticmethod
    def forward(
        module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """Return W0 x + s B (R (A x)), [..., out], given ``result`` = W0 x."""
        a, r, b = (layer[active_adapter] for layer in (module.lora_A, module.lora_R, module.lora_B))
        x = module.lora_dropout[active_adapter](x)
        return result + module.scaling[active_adapter] * b(r(a(x)))

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return W0 + s B R A."""
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Turn W0 into W0 + s B R A in place."""
        orig_weight.data += module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return W0, given W0 + s B R A."""
        return orig_weight.data - module.get_delta_weight(active_adapter).to(orig_weight.dtype)


class SandwichLayer(LoraLayer):
    """What all layers with R have in common."""

    in_features: int
    out_features: int

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant:
        """Return the variant of every layer of this class."""
        return Sandwich()

    def folded_B(self, adapter: str = ADAPTER) -> Tensor:  # noqa: N802 (as in the paper)
        """Return B R, float32 [out, r]: with A, a plain LoRA of the same product."""
        b, r, _ = parts(self, adapter)
        return b.weight.float() @ r.weight.float()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return s B R A, float32 [out, in]."""
        a = parts(self, adapter).A.weight.float()
        return self.scaling[adapter] * (self.folded_B(adapter) @ a)


class Linear(SandwichLayer, lora.Linear):
    """B R A beside an ``nn.Linear``."""


class _Quantized(SandwichLayer):
    """Merges and unmerges as the plain layer does, once its base has been dequantized."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        if isinstance(self.get_base_layer(), QUANTIZED):
            raise ValueError(
                "a small update does not survive in the 4 or 8 bits of this base: "
                "fl_app.adapters.lora_sb.adapter.merged merges into a full-precision copy"
            )
        lora.Linear.merge(cast(Any, self), safe_merge, adapter_names)

    def unmerge(self) -> None:
        lora.Linear.unmerge(cast(Any, self))


class Linear4bit(_Quantized, lora.Linear4bit):
    """B R A beside a 4-bit layer of bitsandbytes."""


class Linear8bitLt(_Quantized, lora.Linear8bitLt):
    """B R A beside an 8-bit layer of bitsandbytes."""


def sandwiched(config: LoraConfig) -> LoraConfig:
    """Make ``config`` one whose layers have R.

    A saved adapter is loaded with ``PeftModel.from_pretrained(base, folder,
    config=sandwiched(LoraConfig.from_pretrained(folder)))``: PEFT's file does not say that the
    layers are these.
    """
    # The first class that fits is taken, and the quantized ones are nn.Linear too.
    config._register_custom_module(
        {bnb.Linear4bit: Linear4bit, bnb.Linear8bitLt: Linear8bitLt, nn.Linear: Linear}
    )
    return config


def layers(model: nn.Module) -> dict[str, SandwichLayer]:
    """Return the layers with R by name, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, SandwichLayer)}


def parts(layer: Any, adapter: str = ADAPTER) -> Parts:
    """Return the layers of B, R and A of a layer with R."""
    return Parts(layer.lora_B[adapter], layer.lora_R[adapter], layer.lora_A[adapter])


def base(layer: SandwichLayer) -> nn.Linear:
    """Return the layer of W0."""
    return cast(nn.Linear, layer.get_base_layer())
