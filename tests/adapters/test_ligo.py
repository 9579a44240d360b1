"""LiGO's operator: its invariants, for an encoder, a decoder and an encoder-decoder."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from fl_app.adapters.ligo import adapter
from fl_app.adapters.ligo.operator import expanded, materialized
from fl_app.config import ConfigError, compose, plain
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.preflight import check
from fl_app.runs import trained
from tests.disturbed import in_process

WORDS = 40
DECODER = "model=llama-tiny task=word_problems data=word_problems"
ROUNDING = 2e-4  # of logits of some units, by float32 sums in another order


def bert(**sizes):
    torch.manual_seed(0)
    own = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    own |= {"intermediate_size": 24, "max_position_embeddings": 16}
    own |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **sizes}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=3, **own))


def llama(**sizes):
    torch.manual_seed(0)
    own = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    own |= {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8, **sizes}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **own))


def t5(**sizes):
    torch.manual_seed(0)
    own = {"d_model": 16, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8}
    own |= {"d_ff": 24, "spatial": "fourier", "dropout_rate": 0.0, **sizes}
    return VT5ForConditionalGeneration(VT5Config(vocab_size=WORDS, **own))


LARGER = {
    bert: {
        "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3,
        "intermediate_size": 40,
    },
    llama: {
        "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 40, "head_dim": 8,
    },
    t5: {"d_model": 24, "num_layers": 4, "num_decoder_layers": 3, "num_heads": 3, "d_ff": 40},
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", LARGER, ids=lambda kind: kind.__name__)


def options(config: dict, **others):
    return OmegaConf.create({**plain(compose("adapter=ligo").adapter), "config": config, **others})


def grow(kind, config=None, seed=0, **others):
    small = kind().eval()
    chosen = LARGER[kind] if config is None else config
    return small, adapter.attach(copy.deepcopy(small), options(chosen, **others), seed)


def batch(model):
    ids = torch.arange(2 * 7).reshape(2, 7) * 5 % (WORDS - 3) + 3
    if isinstance(model, BertForSequenceClassification):
        return {"input_ids": ids, "labels": torch.tensor([0, 2])}
    return {"input_ids": ids, "labels": ids}


def logits(model):
    with torch.inference_mode():
        return model.eval()(**batch(model)).logits


@KINDS
def test_the_start_of_equal_sizes_is_the_smaller_model(kind) -> None:
    small, same = grow(kind, {}, noise=0.0)
    torch.testing.assert_close(logits(same), logits(small), rtol=0, atol=0)


@KINDS
def test_the_materialized_model_is_the_operators(kind, tmp_path) -> None:
    _, large = grow(kind)
    tree = adapter.get(large)
    rng = np.random.default_rng(1)
    adapter.set(
        large, {k: v + 0.1 * rng.standard_normal(v.shape).astype("f4") for k, v in tree.items()}
    )
    whole = materialized(large)
    torch.testing.assert_close(logits(whole), logits(large), rtol=0, atol=ROUNDING)
    adapter.export(large, tmp_path)
    again = type(whole).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), logits(whole), rtol=0, atol=0)


@KINDS
def test_the_first_rows_and_columns_are_the_smaller_models(kind) -> None:
    small, large = grow(kind, noise=0.0)
    weights = dict(small.named_parameters())
    for name, weight in materialized(large).named_parameters():
        growth = large.ligo.growths[name]
        source = weights[growth.sources[growth.row % len(growth.sources)]]
        block = weight[tuple(slice(0, n) for n in source.shape)]
        torch.testing.assert_close(block, source, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("start", "layers"), [("stack", [0, 1, 0, 1]), ("interlace", [0, 0, 1, 1])]
)
def test_depth_alone_copies_layers(start: str, layers: list[int]) -> None:
    small, large = grow(bert, {"num_hidden_layers": 4}, depth=start, noise=0.0)
    whole, there = materialized(large).state_dict(), small.state_dict()
    for above, below in enumerate(layers):
        for name in there:
            if f"layer.{below}." in name:
                found = whole[name.replace(f"layer.{below}.", f"layer.{above}.")]
                assert torch.equal(found, there[name])


@KINDS
def test_only_the_operator_trains_and_every_part_of_it_does(kind) -> None:
    small, large = grow(kind)
    before = {name: p.clone() for name, p in small.named_parameters()}
    optimizer = torch.optim.SGD([p for p in large.parameters() if p.requires_grad], 0.1)
    large.train()
    losses = []
    for _ in range(3):
        loss = large(**batch(large)).loss
        loss.backward()
        trained = {n: p for n, p in large.named_parameters() if p.requires_grad}
        assert all(name.startswith(("ligo.depth.", "ligo.width.")) for name in trained)
        assert all(p.grad is not None for p in trained.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, before[n]) for n, p in large.ligo.small.named_parameters())


@KINDS
def test_gradients_add_up_over_passes(kind) -> None:
    _, large = grow(kind)
    large.eval()
    for passes in (1, 2):
        large.zero_grad()
        for _ in range(passes):
            (large(**batch(large)).loss / passes).backward()
        found = torch.cat([p.grad.flatten() for p in large.parameters() if p.requires_grad])
        if passes == 1:
            once = found
    torch.testing.assert_close(found, once, rtol=1e-5, atol=1e-6)


def test_expanders_are_tied_as_the_paper_ties_them() -> None:
    _, large = grow(t5)
    names = {name.rpartition("/")[2] for name in large.ligo.width}
    assert names == {
        *("residual", "query", "key", "value", "hidden", "heads"),
        *("cross_query", "cross_key", "cross_value"),
    }
    residual = [name for name in large.ligo.width if name.endswith("residual")]
    assert residual == ["residual"]
    hidden = [name for name in large.ligo.width if name.endswith("hidden")]
    assert len(hidden) == 4 + 3  # one in each layer of both stacks


def test_an_output_projection_has_its_own_expander_where_queries_share_values() -> None:
    _, large = grow(llama)  # 4 heads of queries, 2 of keys and values: these do not grow
    names = {name.rpartition("/")[2] for name in large.ligo.width}
    assert names == {"residual", "query", "attended", "hidden"}


@KINDS
def test_the_start_depends_on_the_seed_alone(kind) -> None:
    first, again, other = (adapter.get(grow(kind, seed=seed)[1]) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)
    for name, value in first.items():
        np.testing.assert_allclose(value.sum(1), 1, atol=1e-5, err_msg=name)


def test_selected_units_are_copies() -> None:
    small, large = grow(bert, {"intermediate_size": 40}, width="select", noise=0.0)
    there = small.bert.encoder.layer[0].intermediate.dense.weight
    grown = large.ligo.grown("bert.encoder.layer.0.intermediate.dense.weight")
    assert all(any(torch.equal(row, one) for one in there) for row in grown)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(1, 5), st.integers(0, 4), st.integers(0))
def test_expanding_both_axes_is_a_kronecker_product(rows, more, columns, wider, seed) -> None:
    generator = torch.Generator().manual_seed(seed % 2**32)
    weight, out, into = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, columns), (more, rows), (wider, columns))
    )
    B, A = (torch.cat([torch.eye(e.shape[1], dtype=e.dtype), e]) for e in (out, into))  # noqa: N806
    grown = expanded(expanded(weight, out, 0), into, 1)
    # vec(B W A^T) = (A kron B) vec(W), columns one below the other
    torch.testing.assert_close(grown.T.flatten(), torch.kron(A, B) @ weight.T.flatten())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "adapter.config"),
        (f"'adapter.config={{hidden_sise: 64}}' {DECODER}", "unknown adapter.config.*hidden_sise"),
        (f"'adapter.config={{model_type: mistral}}' {DECODER}", "adapter.config.*: model_type"),
        (f"'adapter.config={{num_hidden_layers: 2}}' {DECODER}", "2 of .* where the base has 3"),
        (f"'adapter.config={{num_hidden_layers: 0}}' {DECODER}", "0 of .* where the base has 3"),
        (f"'adapter.config={{num_hidden_layers: six}}' {DECODER}", "adapter.config.*expected int"),
        (f"'adapter.config={{num_attention_heads: 0}}' {DECODER}", "adapter.config.*by zero"),
        (f"'adapter.config={{tie_word_embeddings: true}}' {DECODER}", "0 of lm_head.weight"),
        (f"'adapter.config={{hidden_size: 64}}' {DECODER}", "at least as large"),
        (f"'adapter.config={{vocab_size: 900}}' {DECODER}", "same words"),
        ("'adapter.config={d_model: 256}' privacy=dp_sgd", "dp_sgd"),
        ("'adapter.config={d_model: 256}' adapter.depth=copy", "adapter.depth"),
        ("'adapter.config={d_model: 256}' adapter.noise=-1", "adapter.noise"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_starts(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(compose(f"adapter=ligo {words}"))


def test_what_was_grown_is_loaded_as_any_model(tmp_path, capsys, monkeypatch) -> None:
    from fl_app.build import forget_session
    from fl_app.command.grow import main

    monkeypatch.chdir(tmp_path)
    words = ["experiment=ligo", "data.providers_per_client=1", "federation.clients=2"]
    forget_session()
    assert main(["grown", *words, "--steps", "2"]) == 0
    forget_session()
    assert "step 2 of 2: loss" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 192)
    assert main(["grown", *words]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_federation_trains_the_operator_and_leaves_the_larger_model(tmp_path) -> None:
    few = (
        "data.providers_per_client=1 data.test_problems=4 data.validation_problems=0 "
        "data.unseen_providers=1 data.public_providers=1 federation.clients=2 rounds=2 "
        "logger=none target.value=null"
    )
    in_process(f"experiment=ligo {few} output.dir={tmp_path} output.name=run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter")
    assert model.config.num_hidden_layers == 6
    found = trained.load(trained.find(tmp_path / "run", "last", None))
    assert torch.equal(found.model.lm_head.weight, model.lm_head.weight)
    said = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "a larger model, grown from the base by LiGO" in said
