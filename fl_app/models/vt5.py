"""VT5: T5 with the positions of words on the page, and with the page's picture.

Tito et al., "Hierarchical multimodal transformers for Multi-Page DocVQA" (2023,
https://arxiv.org/abs/2212.05935), without its hierarchy of pages, as in the code of the
PFL-DocVQA competition, but on transformers' T5 and BEiT. Taken from that code, and checked against
the competition's number of scalars: the spatial embedding; the frozen DiT; its last hidden states
(CLS and patches, not pooled), which pass one linear layer and follow the text, without boxes.
Different from that code: no dropout in the spatial embedding, and padding follows the visual tokens
instead of preceding them, so that a page is encoded alike in every batch.

With ``quecc`` in its config, patches pass ``fl_app.models.quecc`` before the linear layer: fewer
visual tokens, other ones for each question. Then a page is encoded once for each of its questions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitModel,
    T5Config,
    T5ForConditionalGeneration,
    initialization,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from fl_app.models.quecc import QueCC, for_visual, layers, options
from fl_app.models.spatial import SPATIAL, TableSpatial

VISUAL_KEYS = frozenset(key for key in BeitConfig.__annotations__ if key[0].islower())


class VT5Config(T5Config):
    """T5's config, and how boxes, pictures and questions enter the model.

    Attributes
    ----------
    spatial : str
        "none" (plain T5), "table" (the competition's embedding tables) or "fourier".
    prompt : str
        "encoder" (as in T5, the question stands before the page's words) or "decoder" (the
        decoder's text starts with the question, and the answer follows).
    visual : dict or None
        The config of the visual encoder, values of transformers' ``BeitConfig``; None: the model
        uses no pictures.
    quecc : dict or None
        Options of ``fl_app.models.quecc``, which compresses the visual tokens: ``stride``,
        ``kernel``, ``heads``, ``levels``, and ``frozen``, whether it stays as it is. None: all
        visual tokens enter the encoder.
    untied_lm_head : bool
        Whether the output layer has weights of its own, as in the competition's code, or shares
        those of the token embedding. transformers' T5 always shares them, and uses
        ``tie_word_embeddings`` only to decide whether to scale the decoder's output; so does this.
    """

    model_type = "vt5"

    spatial: str = "none"
    prompt: str = "encoder"
    visual: dict[str, Any] | None = None
    quecc: dict[str, Any] | None = None
    untied_lm_head: bool = False
    decoder_start_token_id: int = 0  # the padding token, as in every T5

    def __post_init__(self, **kwargs) -> None:
        if self.spatial not in ("none", *SPATIAL):
            raise ValueError(f"unknown spatial {self.spatial!r}; known: none, {', '.join(SPATIAL)}")
        if self.prompt not in ("decoder", "encoder"):
            raise ValueError(f"unknown prompt {self.prompt!r}; known: decoder, encoder")
        unknown = sorted({*(self.visual or {})} - VISUAL_KEYS)
        if unknown:
            raise ValueError(
                f"unknown visual {', '.join(unknown)}; known: {', '.join(sorted(VISUAL_KEYS))}"
            )
        if self.visual is not None:
            _check_visual(BeitConfig(**self.visual))
        if self.quecc is not None:
            options(self.quecc)
            if self.visual is not None:  # it may still come from a checkpoint of its own
                with torch.device("meta"):
                    for_visual(self.quecc, BeitConfig(**self.visual), self.d_model)
        super().__post_init__(**kwargs)


def _check_visual(visual: BeitConfig) -> None:
    """Check that sizes are multiples: BEiT silently drops remaining pixels and channels."""
    for whole, part in (
        ("image_size", "patch_size"),
        ("hidden_size", "num_attention_heads"),
    ):
        if getattr(visual, whole) % getattr(visual, part):
            raise ValueError(
                f"visual.{whole}={getattr(visual, whole)} should be a multiple of "
                f"visual.{part}={getattr(visual, part)}"
            )


class VT5ForConditionalGeneration(T5ForConditionalGeneration):
    """T5 with a spatial embedding of word boxes and the states of a frozen visual encoder.

    The spatial embedding is added to the encoder's input embeddings; the visual states follow them.
    """

    config: VT5Config
    config_class = VT5Config

    def __init__(self, config: VT5Config) -> None:
        super().__init__(config)
        if config.spatial != "none":
            self.spatial = SPATIAL[config.spatial](config.d_model)
        if config.visual is not None:
            visual = BeitConfig(**config.visual)
            self.visual_encoder = BeitModel(visual, add_pooling_layer=False).requires_grad_(False)
            self.visual_matcher = nn.Linear(visual.hidden_size, config.d_model)
        if config.quecc is not None:
            if config.visual is None:
                raise ValueError("quecc compresses the tokens of a visual encoder: set visual too")
            self.quecc = for_visual(config.quecc, visual, config.d_model)
        self.post_init()

    @property
    def frozen(self) -> tuple[str, ...]:
        """The modules that no adapter trains or sends."""
        compressor = self.config.quecc is not None and options(self.config.quecc)["frozen"]
        return ("visual_encoder", *(("quecc", "visual_matcher") if compressor else ()))

    @property
    def page_per_question(self) -> bool:
        """Whether the encoder reads a page of its own for each question about a document."""
        return self.config.prompt == "encoder" or self.config.quecc is not None

    @property
    def visual_tokens_per_page(self) -> int:
        """What enters the encoder of a page's picture; 0 for a model that sees none."""
        if self.config.quecc is not None:
            return int(self.quecc.side**2)
        if self.config.visual is None:
            return 0
        patches: Any = self.visual_encoder.embeddings.patch_embeddings.num_patches
        return int(patches) + 1  # CLS

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict:
        """Return the weights that are shared under a second name, {second name: first name}."""
        tied = super().get_expanded_tied_weights_keys(all_submodels)
        if self.config.untied_lm_head:
            tied.pop("lm_head.weight", None)
        return tied

    def train(self, mode: bool = True) -> "VT5ForConditionalGeneration":
        """Set the mode as torch does; the visual encoder stays frozen and in evaluation mode."""
        super().train(mode)
        if self.config.visual is not None:
            # Freeze it again: ``from_pretrained`` makes new parameters and ends with ``eval()``.
            self.visual_encoder.requires_grad_(False).eval()
        return self

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False.

        For a class outside of transformers, ``from_pretrained`` would draw missing weights only by
        the rules for single layers, not by those of T5's attention and of this class.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            return  # what T5 would draw here, ``shared``, has been drawn as an embedding
        if module is self.lm_head and self.config.untied_lm_head:
            initialization.copy_(module.weight, self.shared.weight)
            return
        super()._init_weights(module)
        if isinstance(module, TableSpatial):
            initialization.normal_(module.x.weight, std=1.0)
            initialization.normal_(module.y.weight, std=1.0)
            initialization.normal_(module.matcher.weight, std=module.matcher.in_features**-0.5)
        elif isinstance(module, QueCC):
            for part in module.modules():
                if isinstance(part, nn.Linear):
                    initialization.normal_(part.weight, std=part.in_features**-0.5)
            average = module.downsample.weight
            initialization.constant_(average, 1 / average[0, 0].numel())
        elif module is getattr(self, "visual_matcher", None):
            initialization.normal_(module.weight, std=module.in_features**-0.5)

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        bbox: Tensor | None,
        pixel_values: Tensor | None = None,
        picture: Tensor | None = None,
        question: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode pages.

        Parameters
        ----------
        input_ids, attention_mask : Tensor
            [pages, tokens].
        bbox : Tensor or None
            [pages, tokens, 4], integers 0..1000; None: all zero.
        pixel_values : Tensor or None
            [pictures, channels, height, width], for a model with a visual encoder.
        picture : Tensor or None
            [pages], the picture of each page; None: page i has picture i.
        question : Tensor or None
            [pages, tokens], padded with ``pad_token_id``: what is asked about each page, for a
            model with ``quecc``.

        Returns
        -------
        Tensor
            [pages, tokens, d]; with a visual encoder [pages, tokens + visual tokens, d], for each
            page first the states of its words, then those of its picture, then padding.

        Raises
        ------
        ValueError
            If there are pictures for a model without a visual encoder, or none for one with it;
            if there is no question for a model with ``quecc``.
        """
        if (pixel_values is None) != (self.config.visual is None):
            raise ValueError(
                "pixel_values should be given if and only if the model has a visual encoder "
                "(visual in its config)"
            )
        embeddings = self.shared(input_ids) if inputs_embeds is None else inputs_embeds
        if self.config.spatial != "none":
            if bbox is None:
                bbox = embeddings.new_zeros(*embeddings.shape[:2], 4, dtype=torch.long)
            prompts = embeddings.shape[1] - bbox.shape[1]
            embeddings = embeddings + nn.functional.pad(self.spatial(bbox), (0, 0, prompts, 0))
        if pixel_values is not None:
            visual = self.visual_tokens(pixel_values, picture, question)
            embeddings = _with_picture(embeddings, attention_mask, visual)
            attention_mask = _with_visual(attention_mask, embeddings)
        return self.encoder(inputs_embeds=embeddings, attention_mask=attention_mask)[0]

    def visual_tokens(
        self, pixel_values: Tensor, picture: Tensor | None = None, question: Tensor | None = None
    ) -> Tensor:
        """Return what enters the encoder of each page's picture, [pages, visual tokens, d].

        Parameters
        ----------
        pixel_values, picture, question : Tensor
            See ``encode``.
        """
        compressor = self.config.quecc
        with torch.no_grad():
            found = self.visual_encoder(pixel_values, output_hidden_states=compressor is not None)
        if compressor is None:
            visual = self.visual_matcher(found.last_hidden_state)
            return visual if picture is None else visual.index_select(0, picture)
        if question is None:
            raise ValueError("question should be given: the model compresses pictures by it")
        if picture is None:
            picture = torch.arange(len(pixel_values), device=pixel_values.device)
        chosen = layers(options(compressor)["levels"], len(found.hidden_states) - 1)
        patches = slice(1, None)  # the first state is of CLS
        levels = torch.cat([found.hidden_states[layer][:, patches] for layer in chosen], dim=-1)
        x = found.last_hidden_state[:, patches]
        return self.visual_matcher(self.quecc(x, levels, self._asked(question), picture))

    def _asked(self, question: Tensor) -> Tensor:
        """Return the feature of each question, [questions, d]: the mean of its embeddings."""
        pad: Any = self.config.pad_token_id
        seen = question.ne(pad).to(self.shared.weight.dtype).unsqueeze(-1)
        return (self.shared(question) * seen).sum(1) / seen.sum(1).clamp(min=1)

    def _states(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        bbox: Tensor | None,
        encoder_outputs: BaseModelOutput | tuple | None,
        pixel_values: Tensor | None,
        picture: Tensor | None,
        question: Tensor | None,
        document: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return encoder states, their attention mask, and the row of states of each question."""
        if document is not None and self.config.quecc is not None:
            # Each question has a page of its own, since it sees other visual tokens.
            input_ids, attention_mask, bbox, inputs_embeds = (
                None if x is None else x.index_select(0, document)
                for x in (input_ids, attention_mask, bbox, inputs_embeds)
            )
            picture = document if picture is None else picture.index_select(0, document)
            document = torch.arange(len(document), device=document.device)
        if encoder_outputs is not None:
            states = encoder_outputs[0]
        elif input_ids is not None or inputs_embeds is not None:
            states = self.encode(
                input_ids, attention_mask, bbox, pixel_values, picture, question, inputs_embeds
            )
        else:
            raise ValueError("give either input_ids, inputs_embeds or encoder_outputs")
        return states, _with_visual(attention_mask, states), document

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
        pixel_values: Tensor | None = None,
        picture: Tensor | None = None,
        question: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """Compute T5's forward pass on pages with boxes and pictures, and several questions a page.

        With ``document`` and ``labels``, logits are computed where there is a label alone: they are
        [labels, vocabulary].

        Parameters
        ----------
        input_ids, attention_mask : Tensor
            [pages, tokens].
        bbox : Tensor or None
            [pages, tokens, 4], integers 0..1000; None: all zero.
        labels : Tensor
            [questions, tokens]; -100 is ignored.
        decoder_input_ids, decoder_attention_mask : Tensor
            [questions, tokens].
        encoder_outputs : tuple
            States of ``encode``, to use instead of encoding again.
        document : Tensor or None
            [questions], the page of each question; None: question i is about page i.
        pixel_values, picture : Tensor
            See ``encode``.
        question : Tensor or None
            [questions, tokens], see ``encode``.
        inputs_embeds : Tensor or None
            [pages, prompts + tokens, d], see ``encode``.
        """
        states, attention_mask, document = self._states(
            input_ids, attention_mask, bbox, encoder_outputs, pixel_values, picture,
            question, document, inputs_embeds,
        )  # fmt: skip
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
        if labels is None:
            return Seq2SeqLMOutput(logits=self.lm_head(hidden), encoder_last_hidden_state=states)
        # Answers are padded to the longest one: most tokens have no label.
        has_label = labels != -100
        logits = self.lm_head(hidden[has_label])
        loss = nn.functional.cross_entropy(logits, labels[has_label])
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=states)

    def _decode_by_page(
        self,
        states: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None,
        document: Tensor,
    ) -> Tensor:
        """Return decoder states [questions, tokens, d], computing a page's keys and values once.

        The questions of a page are concatenated to one decoder sequence, and a mask separates them.
        T5's position bias depends only on distances, so that nothing else changes.
        """
        length = decoder_input_ids.shape[1]
        same_page = document.unsqueeze(0) == document.unsqueeze(1)
        slot = same_page.tril(-1).sum(1)  # the number of earlier questions about the page
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

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bbox: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        document: Tensor | None = None,
        pixel_values: Tensor | None = None,
        picture: Tensor | None = None,
        question: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ):
        """Generate as transformers does, with the arguments of ``forward``; one row a question."""
        states, attention_mask, document = self._states(
            input_ids, attention_mask, bbox, encoder_outputs, pixel_values, picture,
            question, document, inputs_embeds,
        )  # fmt: skip
        if document is not None:
            states = states.index_select(0, document)
            if attention_mask is not None:
                attention_mask = attention_mask.index_select(0, document)
        return super().generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=attention_mask,
            **kwargs,
        )


def _with_picture(embeddings: Tensor, attention_mask: Tensor | None, visual: Tensor) -> Tensor:
    """Return embeddings [pages, tokens + visual tokens, d], with padding moved to the end."""
    joined = torch.cat([embeddings, visual], dim=1)
    if attention_mask is None:
        return joined
    # T5 uses the distances of tokens: with padding between text and picture, a page's states
    # would depend on the longest page of its batch.
    is_padding = nn.functional.pad(attention_mask == 0, (0, visual.shape[1]))
    order = is_padding.to(torch.uint8).argsort(dim=1, stable=True)
    return joined.gather(1, order.unsqueeze(-1).expand_as(joined))


def _with_visual(attention_mask: Tensor | None, states: Tensor) -> Tensor | None:
    """Return the mask [pages, tokens + visual tokens] of states in the order of ``encode``.

    All padding is at the end.
    """
    if attention_mask is None or attention_mask.shape[1] == states.shape[1]:
        return attention_mask
    seen = attention_mask.sum(1, keepdim=True) + states.shape[1] - attention_mask.shape[1]
    places = torch.arange(states.shape[1], device=states.device)
    return (places < seen).to(attention_mask.dtype)
