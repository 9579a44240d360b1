"""VT5 without its image branch: T5 that also sees where each word stands on the page.

Tito et al., "Hierarchical multimodal transformers for Multi-Page DocVQA" (2023), as used by the
PFL-DocVQA competition; here on transformers' T5.
"""

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration, initialization
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

COORDINATES = 1024  # rows of a coordinate table; boxes use 0..1000
FREQUENCIES = 6  # of a coordinate's Fourier features: half a period to 16 periods of a page


class VT5Config(T5Config):
    """T5's config, and where boxes and questions enter the model.

    Args:
        spatial: "none" (plain T5), "table" (the competition's embedding tables) or "fourier".
        prompt: "encoder" (T5's form: the question stands before the page's words) or "decoder"
            (the question is the start of the decoder's text, the answer follows it).
    """

    model_type = "vt5"

    spatial: str = "none"
    prompt: str = "encoder"
    decoder_start_token_id: int = 0  # as every T5 has it: its padding

    def __post_init__(self, **kwargs) -> None:
        if self.spatial not in ("none", *SPATIAL):
            raise ValueError(f"unknown spatial {self.spatial!r}; known: none, {', '.join(SPATIAL)}")
        if self.prompt not in ("decoder", "encoder"):
            raise ValueError(f"unknown prompt {self.prompt!r}; known: decoder, encoder")
        super().__post_init__(**kwargs)


class TableSpatial(nn.Module):
    """Sum of learned embeddings of x0, y0, x1, y1, normalized and mixed by a linear layer.

    2 x (1024 x d) + 2d + d x d + d scalars: 2,164,992 at d = 768.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.x = nn.Embedding(COORDINATES, d_model)
        self.y = nn.Embedding(COORDINATES, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.matcher = nn.Linear(d_model, d_model)

    def forward(self, bbox: Tensor) -> Tensor:
        """Boxes [pages, tokens, 4] of integers 0..1000 -> embeddings [pages, tokens, d]."""
        x0, y0, x1, y1 = bbox.unbind(-1)
        return self.matcher(self.norm(self.x(x0) + self.y(y0) + self.x(x1) + self.y(y1)))


class FourierSpatial(nn.Module):
    """Sines and cosines of the four coordinates, mixed by a linear layer (48 d + d scalars).

    Tancik et al., "Fourier features let networks learn high frequency functions" (2020).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.projection = nn.Linear(4 * 2 * FREQUENCIES, d_model)

    def forward(self, bbox: Tensor) -> Tensor:
        """Boxes [pages, tokens, 4] of integers 0..1000 -> embeddings [pages, tokens, d]."""
        weight = self.projection.weight
        octaves = torch.arange(FREQUENCIES, dtype=weight.dtype, device=weight.device)
        angles = (bbox.to(weight.dtype) / 1000).unsqueeze(-1) * (torch.pi * 2**octaves)
        return self.projection(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2))


SPATIAL: dict[str, type[nn.Module]] = {"table": TableSpatial, "fourier": FourierSpatial}


class VT5ForConditionalGeneration(T5ForConditionalGeneration):
    """T5 with a spatial embedding of word boxes added to the encoder's input embeddings."""

    config: VT5Config
    config_class = VT5Config

    def __init__(self, config: VT5Config) -> None:
        super().__init__(config)
        if config.spatial != "none":
            self.spatial = SPATIAL[config.spatial](config.d_model)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        width = self.config.initializer_factor * self.config.d_model**-0.5
        if isinstance(module, TableSpatial):
            initialization.normal_(module.x.weight, std=1.0)
            initialization.normal_(module.y.weight, std=1.0)
            initialization.normal_(module.matcher.weight, std=width)
            initialization.zeros_(module.matcher.bias)
        elif isinstance(module, FourierSpatial):
            initialization.normal_(module.projection.weight, std=width)
            initialization.zeros_(module.projection.bias)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, bbox: Tensor | None
    ) -> Tensor:
        """Encoder states [pages, tokens, d] of token ids and masks [pages, tokens] and boxes
        [pages, tokens, 4] (None: all zero).
        """
        embeddings = self.shared(input_ids)
        if self.config.spatial != "none":
            if bbox is None:
                bbox = input_ids.new_zeros(*input_ids.shape, 4)
            embeddings = embeddings + self.spatial(bbox)
        return self.encoder(inputs_embeds=embeddings, attention_mask=attention_mask)[0]

    def _states(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        bbox: Tensor | None,
        encoder_outputs: BaseModelOutput | tuple | None,
    ) -> Tensor:
        if encoder_outputs is not None:
            return encoder_outputs[0]
        if input_ids is None:
            raise ValueError("give either input_ids or encoder_outputs")
        return self.encode(input_ids, attention_mask, bbox)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bbox: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        document: Tensor | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """T5's forward, on pages with boxes and on several questions a page.

        Args:
            input_ids, attention_mask: [pages, tokens].
            bbox: [pages, tokens, 4], integers 0..1000; None means all zero.
            labels: [questions, tokens]; -100 is ignored.
            decoder_input_ids, decoder_attention_mask: [questions, tokens].
            encoder_outputs: states [pages, tokens, d] to use instead of encoding again.
            document: [questions], the page that each question asks about; None means that
                question i asks about page i.
        """
        states = self._states(input_ids, attention_mask, bbox, encoder_outputs)
        if document is None:
            return super().forward(
                attention_mask=attention_mask,
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                labels=labels,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                **kwargs,
            )
        if decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        hidden = self._decode_by_page(
            states, attention_mask, decoder_input_ids, decoder_attention_mask, document
        )
        if self.config.scale_decoder_outputs:
            hidden = hidden * self.model_dim**-0.5
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=states)

    def _decode_by_page(
        self,
        states: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None,
        document: Tensor,
    ) -> Tensor:
        """Decoder states [questions, tokens, d], the page's keys and values computed once.

        A page's questions are laid end to end as one decoder sequence, each blind to the others.
        T5's position bias depends on differences alone, so nothing else changes.
        """
        length = decoder_input_ids.shape[1]
        same_page = document.unsqueeze(0) == document.unsqueeze(1)
        slot = same_page.tril(-1).sum(1)  # how many earlier questions ask about the page
        slots = int(slot.max()) + 1

        packed = decoder_input_ids.new_full(
            (states.shape[0], slots, length), self.config.decoder_start_token_id
        )
        packed[document, slot] = decoder_input_ids
        causal = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
        mask = torch.block_diag(*[causal] * slots).expand(1, 1, -1, -1)
        if decoder_attention_mask is not None:
            seen = packed.new_ones(packed.shape)
            seen[document, slot] = decoder_attention_mask
            mask = mask & seen.flatten(1).bool()[:, None, None, :]
        hidden = self.decoder(
            input_ids=packed.flatten(1),
            attention_mask=mask,
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )[0]
        return hidden.unflatten(1, (slots, length))[document, slot]

    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bbox: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        document: Tensor | None = None,
        **kwargs,
    ):
        """transformers' ``generate`` with the arguments of ``forward``; one row per question."""
        states = self._states(input_ids, attention_mask, bbox, encoder_outputs)
        if document is not None:
            states = states.index_select(0, document)
            if attention_mask is not None:
                attention_mask = attention_mask.index_select(0, document)
        return super().generate(  # type: ignore[misc]
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=attention_mask,
            **kwargs,
        )
