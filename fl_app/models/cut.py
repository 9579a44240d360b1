"""A model cut in three: head and tail at a client, and between them the body, at a server.

The head is the embedding and the first blocks, the tail what follows the last block. Of an
encoder-decoder the encoder is cut: its last normalization and the whole decoder are of the tail.
Nothing of the model is written anew: its own forward pass runs, in which some blocks are replaced
by one that passes its input on, or that gives states which came from the other side. Masks,
positions and the order of operations are the model's own, so that the parts compute the very bits
of the whole.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fl_app.models.generation import unwrapped

BLOCKS = ("encoder.layer", "layers")  # of the stacks of BERT and of Llama, and of their like
T5_BLOCKS = ("block",)  # of T5's encoder


class CutError(ValueError):
    """The model cannot be cut there."""


class Cut:
    """The cut of a model behind its first ``head_blocks`` blocks.

    Parameters
    ----------
    model : Module
        Of transformers, or PEFT's wrapper around one: a classifier like BERT, a decoder like Llama
        or an encoder-decoder like T5, such as VT5.
    head_blocks : int
        Blocks of the head; the rest are the body's, of which there is at least one.

    Raises
    ------
    CutError
        If the model has no such blocks, or trains one of them.
    """

    def __init__(self, model: Any, head_blocks: int) -> None:
        self.model, self.head_blocks = model, head_blocks
        inner = unwrapped(model)
        both = inner.config.is_encoder_decoder
        self.stack = inner.get_encoder() if both else inner.base_model
        found = [path for path in (T5_BLOCKS if both else BLOCKS) if _has(self.stack, path)]
        if not found:
            raise CutError(
                f"{type(inner).__name__} is not cut: it should be a classifier like BERT, a "
                "decoder like Llama or an encoder-decoder like T5"
            )
        self.blocks: nn.ModuleList = self.stack.get_submodule(found[0])
        if not 0 <= head_blocks < len(self.blocks):
            raise CutError(
                f"a head of {head_blocks} blocks should leave one of the model's "
                f"{len(self.blocks)} to the body"
            )
        if any(p.requires_grad for block in self.blocks for p in block.parameters()):
            raise CutError("a block is trained: only what stands before or behind them may be")
        # T5's first block computes the bias of positions for all of them.
        first: Any = self.blocks[0]
        self._bias = first.layer[0].SelfAttention.compute_bias if both else None

    def head(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the head's states of a batch, [rows, states, h], and which are no padding."""
        stop = _Stop()
        seen: list[Tensor | None] = []
        hook = self.stack.register_forward_pre_hook(
            lambda module, arguments, named: seen.append(named.get("attention_mask")),
            with_kwargs=True,
        )
        try:
            with self._replaced({self.head_blocks: stop}):
                self.model(**batch)
            raise CutError("the model's forward pass reaches no block")
        except _ReachedError as reached:
            states = reached.states
        finally:
            hook.remove()
        mask = seen[0]
        if mask is None:
            mask = torch.ones(states.shape[:2], device=states.device)
        return states, mask.bool()

    @torch.enable_grad()
    def body(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the body's states of the head's.

        Parameters
        ----------
        states : Tensor
            [rows, states, h].
        mask : Tensor
            [rows, states], true where there is no padding.
        """
        found: list[Tensor] = []
        first = self.blocks[self.head_blocks].register_forward_pre_hook(
            lambda module, arguments: (states, *arguments[1:])
        )
        last = self.blocks[-1].register_forward_hook(
            lambda module, arguments, output: found.append(
                output if isinstance(output, Tensor) else output[0]
            )
        )
        try:
            with self._replaced({index: self._skip() for index in range(self.head_blocks)}):
                self.stack(inputs_embeds=states.detach(), attention_mask=mask, use_cache=False)
        finally:
            first.remove()
            last.remove()
        return found[0]

    @contextmanager
    def without_body(self) -> Iterator[None]:
        """Let the model's forward pass skip the body: head and tail alone."""
        body = range(self.head_blocks, len(self.blocks))
        with self._replaced({index: self._skip() for index in body}):
            yield

    @contextmanager
    def after_body(self, states: Tensor) -> Iterator[None]:
        """Let the model's forward pass go on from these states of the body, [rows, states, h]."""
        body = range(self.head_blocks + 1, len(self.blocks))
        skipped: dict[int, nn.Module] = {index: self._skip() for index in body}
        with self._replaced({**skipped, self.head_blocks: self._skip(states)}):
            yield

    def _skip(self, states: Tensor | None = None) -> nn.Module:
        """Return a block that passes its input on, or these states instead."""
        return _Skip(self._bias, states)

    @contextmanager
    def _replaced(self, others: Mapping[int, nn.Module]) -> Iterator[None]:
        own = {index: self.blocks[index] for index in others}
        try:
            for index, block in others.items():
                self.blocks[index] = block
            yield
        finally:
            for index, block in own.items():
                self.blocks[index] = block


class _Skip(nn.Module):
    """A block that passes its input on, or gives states, whatever its input is.

    A block of T5 (``compute_bias``) also returns the bias of positions, which it computes if none
    before it has.
    """

    def __init__(self, compute_bias: Callable[..., Tensor] | None, states: Tensor | None) -> None:
        super().__init__()
        self.compute_bias, self.states = compute_bias, states

    def forward(
        self,
        states: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        *arguments: Any,
        **named: Any,
    ) -> Tensor | tuple[Tensor, Tensor, None]:
        given = states if self.states is None else self.states
        if self.compute_bias is None:
            return given
        width = states.shape[1]
        return given, self.compute_bias(width, width) if bias is None else bias, None


class _ReachedError(Exception):
    """Ends a forward pass with the states that reached a block."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class _Stop(nn.Module):
    """A block that ends the forward pass."""

    def forward(self, states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        raise _ReachedError(states)


def _has(module: nn.Module, path: str) -> bool:
    try:
        return isinstance(module.get_submodule(path), nn.ModuleList)
    except AttributeError:
        return False
