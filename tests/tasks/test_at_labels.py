"""The loss where there are labels is the loss of the whole output, and so are its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.adapters import lora
from fl_app.config import compose
from fl_app.data.padding import IGNORED
from fl_app.tasks import at_labels
from tests import architectures
from tests.rounding import DOUBLES, apart


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "gemma2", "opt", "t5", "lora"])
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
@settings(max_examples=5, deadline=None)
def test_losses_and_gradients_are_those_of_the_whole_output(kind, seed, share) -> None:
    name = "llama" if kind == "lora" else kind
    model = architectures.model(name).double().eval()
    if kind == "lora":
        model = lora.attach(model, compose("adapter=lora").adapter, 0).double().eval()
    torch.manual_seed(seed)
    batch = architectures.batch(name, seed=seed)
    labels = batch["labels"].clone()
    labels[torch.rand(labels.shape) < share] = IGNORED
    labels[0, -1] = 3  # there is at least one
    batch["labels"] = labels
    whole, some = model(**batch).loss, at_labels.loss(model, batch)
    assert apart(some, whole) < DOUBLES
    expected, found = gradients(model, whole), gradients(model, some)
    assert {*found} == {*expected}
    assert all(apart(found[n], expected[n]) < DOUBLES for n in expected)


def test_a_decoder_computes_no_more_than_the_columns_with_labels(monkeypatch) -> None:
    model = architectures.model("llama")
    batch = architectures.batch("llama")
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
    batch["labels"][:, -2:] = 3
    seen = []
    model.lm_head.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape[1]))
    at_labels.loss(model, batch)
    assert seen == [2]
