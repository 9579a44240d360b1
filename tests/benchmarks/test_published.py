"""Fed-SB's published parameter counts: the rules that give them, and those that do not."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import published
from benchmarks.published import (
    FED_SB,
    FEDEX,
    FEDIT,
    FFA,
    LORA_RANK,
    SETTINGS,
    Setting,
    break_even,
    counted,
    exchange,
    parts,
    payload,
    per_round,
    scalars,
    setups,
    to_digits,
)
from fl_app.adapters.lora_sb import adapter as lora_sb
from fl_app.adapters.lora_sb.factors import outer
from fl_app.codecs import from_spec
from fl_app.config import compose

LANGUAGE_MODELS = [name for name in SETTINGS if not name.startswith("BERT")]
SNLI = "BERT-base, SNLI"
PUBLISHED = [
    (name, *row, number) for name, s in SETTINGS.items() for row, number in s.published.items()
]
FED_SB_ROWS = [(name, rank) for name, method, rank, _ in PUBLISHED if method == FED_SB]


@pytest.mark.parametrize(
    ("name", "scalars_of_the_checkpoint"),
    [
        ("Mistral-7B, GSM8K", 7_241_732_096),
        ("Gemma-2-9B, MATH", 9_241_705_984),
        ("Llama-3.2-3B, commonsense", 3_212_749_824),
        (SNLI, 108_310_272 + 3 * 768 + 3),  # the encoder with its pooler, and a head for 3 labels
    ],
)
def test_the_architectures_are_those_of_the_checkpoints(
    name: str, scalars_of_the_checkpoint: int
) -> None:
    with torch.device("meta"):
        model = SETTINGS[name].build()
    assert sum(p.numel() for p in model.parameters()) == scalars_of_the_checkpoint


@pytest.mark.parametrize(("name", "method", "rank", "number"), PUBLISHED)
def test_a_rule_gives_the_published_digits(name: str, method: str, rank: int, number: str) -> None:
    assert to_digits(counted(name, method, rank), number) == number


def test_the_published_saving_compares_a_stack_with_r() -> None:
    """230x: FedEx-LoRA's download against one direction of Fed-SB, without its set-up."""
    mistral = "Mistral-7B, GSM8K"
    assert 230 < counted(mistral, FEDEX, 32) / counted(mistral, FED_SB, 200) < 235
    whole = setups(mistral, FED_SB, 200)["server_public"] + per_round(mistral, FED_SB, 200, "fp32")
    assert per_round(mistral, FEDEX, 32, "fp32") / whole < 5


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_ffa_lora_sends_more_than_is_published(name: str) -> None:
    """Half of A and B is published; B alone, which is what is trained, is the larger half."""
    number = SETTINGS[name].published[FFA, 32]
    b = scalars(exchange(name, FFA, 32).up)
    a = scalars(parts(name, 32).a)
    assert a + b == 2 * counted(name, FFA, 32)
    assert to_digits(a, number) != number != to_digits(b, number)
    assert b > a


def test_a_head_sent_once_misses_a_digit_of_fedex_lora() -> None:
    once = scalars(exchange(SNLI, FEDEX, 32).down)
    assert to_digits(once, SETTINGS[SNLI].published[FEDEX, 32]) == "3541K"


def test_modules_of_glue_miss_snli(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the attention's output and the output, all numbers of SNLI are missed."""
    glue = published.QUERY_VALUE.replace(
        "[query,value]", "[query,value,attention.output.dense,output.dense]"
    )
    monkeypatch.setitem(SETTINGS, "GLUE", replace(SETTINGS[SNLI], adapter=glue))
    assert len(parts("GLUE", 64).r) == 48
    for (method, rank), number in SETTINGS["GLUE"].published.items():
        assert to_digits(counted("GLUE", method, rank), number) != number


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=6),
    codec_id=st.sampled_from(["fp32", "nf4"]),
)
@settings(deadline=None, max_examples=30)
def test_payload_is_what_the_codec_writes_for_the_whole_tree(
    shapes: list[tuple[int, int]], codec_id: str
) -> None:
    """Tensors are encoded one by one there, equal shapes once."""
    generator = np.random.default_rng(0)
    tree = {
        str(i): generator.standard_normal(shape, dtype=np.float32) for i, shape in enumerate(shapes)
    }
    codec = from_spec({"id": codec_id})
    wire, _ = codec.encode(tree, codec.init(tree), tree)
    assert payload(codec_id, shapes) == wire.nbytes


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize(("codec", "bits"), [("fp32", 32), ("nf4", 4.5)])
def test_a_round_of_fed_sb_is_two_times_r_squared(name: str, codec: str, bits: float) -> None:
    for rank in (120, 200):
        modules = len(parts(name, rank).weights)
        assert 8 * per_round(name, FED_SB, rank, codec) == 2 * bits * rank**2 * modules


def test_the_adapter_trains_and_sets_up_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables take R, B and A from the shapes of LoRA; lora_sb has no others."""

    def build() -> LlamaForCausalLM:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes, **heads))

    setting = Setting(build, published.LINEAR, clients=2, published={})
    monkeypatch.setitem(SETTINGS, "tiny", setting)
    cfg = compose(f"adapter=lora_sb adapter.r=4 {setting.adapter}").adapter
    model = lora_sb.attach(build(), cfg, 0)
    sent = exchange("tiny", FED_SB, 4)
    assert [x.shape for x in lora_sb.get(model).values()] == sent.up == sent.down
    assert sorted(x.shape for x in outer(model).values()) == sorted(sent.setup)


@pytest.mark.parametrize(("name", "rank"), FED_SB_ROWS)
def test_setup_is_b_and_a_and_for_client_mean_a_bit_a_weight(name: str, rank: int) -> None:
    shapes = parts(name, rank).weights
    before = setups(name, FED_SB, rank)
    assert before["server_public"] == sum(4 * rank * (out + in_) for out, in_ in shapes)
    assert 8 * (before["client_mean"] - before["server_public"]) == sum(map(math.prod, shapes))


@pytest.mark.parametrize(("name", "rank"), FED_SB_ROWS)
@pytest.mark.parametrize("codec", ["fp32", "nf4"])
@pytest.mark.parametrize("init", ["server_public", "client_mean"])
def test_break_even_is_where_the_sums_cross(name: str, rank: int, codec: str, init: str) -> None:
    before = setups(name, FED_SB, rank)[init]
    rounds = break_even(name, rank, codec, init)

    def saved(after: int) -> int:
        lora = after * per_round(name, FEDIT, LORA_RANK, codec)
        return lora - before - after * per_round(name, FED_SB, rank, codec)

    assert saved(math.ceil(rounds)) >= 0 > saved(math.ceil(rounds) - 1)


def test_a_missed_number_is_shown_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = SETTINGS[SNLI]
    for numbers, status in ((setting.published, 0), ({(FED_SB, 64): "100.7K"}, 1)):
        one = {SNLI: replace(setting, published=numbers)}
        monkeypatch.setattr(published, "SETTINGS", one)
        with pytest.raises(SystemExit) as exit_:
            published.main()
        assert exit_.value.code == status
        assert ("| 100.6K | 100.7K | NO |" in capsys.readouterr().out) == bool(status)


def test_the_document_shows_what_the_command_prints() -> None:
    text, met = published.report()
    assert met
    assert text in (Path(__file__).parents[2] / "docs" / "fed_sb.md").read_text()
