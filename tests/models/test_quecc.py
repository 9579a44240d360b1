"""The invariants of QueCC, by itself and inside a VT5."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fl_app import models
from fl_app.adapters import ADAPTERS
from fl_app.codecs import from_spec
from fl_app.config import compose
from fl_app.data.invoices.load import make_documents
from fl_app.data.invoices.marks import COLOURS
from fl_app.data.invoices.pictures import pixel_values
from fl_app.data.invoices.provider import POOLS
from fl_app.files import installed
from fl_app.models.quecc import QueCC, layers
from fl_app.models.vt5 import VT5Config, VT5ForConditionalGeneration
from fl_app.pretraining import beit
from fl_app.tasks.documents import Collator, predict
from tests import one_by_one, small
from tests.disturbed import in_process
from tests.rounding import DOUBLES, apart

WIDTH, TEXT, LEVELS = 8, 6, 2
# (g, stride) whose windows cover the grid.
GRIDS = st.sampled_from([(g, s) for g in (1, 2, 4, 6, 8) for s in range(1, g + 1) if g % s == 0])
SEEDS = st.integers(0, 9)


def _made(g: int, stride: int, seed: int = 0, heads: int = 4) -> QueCC:
    torch.manual_seed(seed)
    made = QueCC(g, WIDTH, TEXT, stride, stride, heads, LEVELS).double()
    with torch.no_grad():
        for parameter in made.parameters():  # no bias and no scale at its start
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def _given(g: int, seed: int = 0, pictures: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": draw(pictures, g * g, WIDTH), "levels": draw(pictures, g * g, LEVELS * WIDTH),
        "text": draw(pictures, TEXT), "picture": torch.arange(pictures),
    }  # fmt: skip


def _differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return apart(a, b) > 100 * DOUBLES


# ---- the seven invariants -----------------------------------------------------------------------


@given(GRIDS)
def test_there_are_as_many_tokens_as_windows(grid: tuple[int, int]) -> None:
    g, stride = grid
    assert _made(g, stride)(**_given(g)).shape == (2, (g // stride) ** 2, WIDTH)


@pytest.mark.parametrize("tokens", [15, 17, 9])
def test_other_numbers_of_features_are_refused(tokens: int) -> None:
    batch = _given(4)
    batch = {k: v[:, :1].expand(-1, tokens, -1) if v.ndim == 3 else v for k, v in batch.items()}
    with pytest.raises(ValueError, match="4 x 4 = 16"):
        _made(4, 2)(**batch)


@given(GRIDS, SEEDS, st.data())
@settings(deadline=None)
def test_a_token_is_of_its_own_window(grid: tuple[int, int], seed: int, data: Any) -> None:
    g, stride = grid
    row, column = (data.draw(st.integers(0, g - 1)) for _ in range(2))
    batch, made = _given(g, seed), _made(g, stride, seed)
    before, changed = made(**batch), {k: v.clone() for k, v in batch.items()}
    changed["x"][0, row * g + column] += 1
    changed["levels"][0, row * g + column] += torch.arange(LEVELS * WIDTH)
    moved = [_differs(*pair) for pair in zip(made(**changed)[0], before[0], strict=True)]
    side = g // stride
    window = row // stride * side + column // stride
    assert moved == [i == window for i in range(side * side)]


@given(SEEDS, st.sampled_from([2, 4]))
def test_another_question_gives_other_tokens(seed: int, stride: int) -> None:
    made, batch = _made(4, stride, seed), _given(4, seed)
    other = batch | {"text": batch["text"].flip(0)}
    assert all(_differs(*pair) for pair in zip(made(**other), made(**batch), strict=True))
    assert torch.equal(made(**batch), made(**batch))


@given(SEEDS, st.integers(1, 4))
def test_a_window_of_one_feature_has_all_the_attention(seed: int, g: int) -> None:
    made, batch = _made(g, 1, seed), _given(g, seed)
    alone = made.o(made.v(made.value(batch["levels"])))
    assert apart(made(**batch), alone) < DOUBLES


@given(SEEDS)
def test_other_examples_of_the_batch_do_not_matter(seed: int) -> None:
    made, batch = _made(4, 2, seed), _given(4, seed, pictures=3)
    batch["picture"] = torch.tensor([2, 0, 2])
    together = made(**batch)
    for i, picture in enumerate(batch["picture"].tolist()):
        one = slice(picture, picture + 1)
        alone = made(
            batch["x"][one], batch["levels"][one], batch["text"][i : i + 1], torch.tensor([0])
        )
        assert apart(together[i], alone[0]) < DOUBLES


@given(SEEDS, st.integers(0, 15))
@settings(deadline=None)
def test_one_token_sees_all(seed: int, feature: int) -> None:
    made, batch = _made(4, 4, seed), _given(4, seed)
    before = made(**batch)
    batch["levels"][0, feature] += torch.arange(LEVELS * WIDTH)
    after = made(**batch)
    assert _differs(after[0], before[0])
    assert torch.equal(after[1], before[1])


@given(GRIDS)
def test_a_split_sends_as_many_times_less(grid: tuple[int, int]) -> None:
    g, stride = grid

    def payload(features: torch.Tensor) -> int:
        tree = {"visual": features.detach().numpy().astype(np.float32)}
        codec = from_spec({"id": "fp32"})
        wire, _ = codec.encode(tree, codec.init(tree, 0), tree)
        return sum(map(len, wire.sections))

    batch = _given(g)
    assert payload(batch["x"]) == payload(_made(g, stride)(**batch)) * stride**2


# ---- what else is promised ----------------------------------------------------------------------


def test_a_kernel_may_be_wider_than_the_stride() -> None:
    made = QueCC(5, WIDTH, TEXT, stride=1, kernel=5, heads=2)
    assert made.side == 1
    with pytest.raises(ValueError, match="to a divisor of 16"):
        QueCC(16, WIDTH, TEXT, stride=3, kernel=3, heads=2)


def test_levels_are_evenly_spaced_up_to_the_last() -> None:
    assert layers(4, 12) == [3, 6, 9, 12]
    assert layers(1, 12) == [12]
    assert layers(2, 2) == [1, 2]


BEIT = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8, "use_absolute_position_embeddings": True,
}  # fmt: skip
WORDS = "model=vt5-tiny-visual model.config.visual.patch_size=8 model.config.visual.image_size=32"


def _rows(pages: int = 3) -> list[dict[str, Any]]:
    rows = make_documents(1, POOLS["federated"], range(pages), range(1))
    few = [slice(0, 3), slice(2, 4), slice(4, 5)]
    return [
        row | {key: row[key][few[i]] for key in ("questions", "answers", "fields")}
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize("prompt", ["decoder", "encoder"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_vt5_answers_a_batch_as_one_by_one(prompt: str, stride: int) -> None:
    cfg = compose(f"{WORDS} +model.config.quecc={{stride:{stride}}} +model.config.prompt={prompt}")
    model, tokenizer = models.load_vt5(cfg.model, seed=0)
    collator, rows = Collator(tokenizer, model.config, 320), _rows()
    together = predict(model, tokenizer, collator, rows, 6)
    assert together == one_by_one.answers(model, tokenizer, collator, rows, 6)
    states = model(**collator.training(rows)).encoder_last_hidden_state
    words = collator.training(rows)["input_ids"].shape[1]
    assert states.shape[:2] == (6, words + (4 // stride) ** 2)


def test_a_question_sees_its_own_picture_and_its_own_words() -> None:
    cfg = compose(f"{WORDS} +model.config.quecc={{stride:4}}")
    model, tokenizer = models.load_vt5(cfg.model, seed=0)
    batch = Collator(tokenizer, model.config, 320).training(_rows())
    before = model.double()(**_doubles(batch)).encoder_last_hidden_state
    for key, changes in (("pixel_values", [3, 4]), ("question", [1])):
        changed = _doubles(batch)
        changed[key][1] = changed[key][1].flip(-1)
        if key == "question":  # the mean of the same tokens would be the same
            changed[key][1] = batch[key][2]
        after = model(**changed).encoder_last_hidden_state
        moved = [i for i in range(6) if _differs(after[i], before[i])]
        assert moved == changes, key


def _doubles(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.double() if v.is_floating_point() else v.clone() for k, v in batch.items()}


def test_without_it_nothing_is_asked() -> None:
    plain, tokenizer = models.load_vt5(compose(WORDS).model, seed=0)
    assert "question" not in Collator(tokenizer, plain.config, 320).training(_rows())
    compressed, _ = models.load_vt5(
        compose(f"{WORDS} +model.config.quecc={{stride:4}}").model, seed=0
    )
    batch = Collator(tokenizer, compressed.config, 320).training(_rows())
    with pytest.raises(ValueError, match="question should be given"):
        compressed(**{k: v for k, v in batch.items() if k != "question"})


FIRST = "adapter=quecc +model.config.quecc={stride:2}"
TOGETHER = "adapter.modules_to_save=[quecc,visual_matcher] +model.config.quecc={stride:2}"
FROZEN = "adapter=lora +model.config.quecc={stride:2,frozen:true}"


@pytest.mark.parametrize("words", [FIRST, TOGETHER, FROZEN, f"{FROZEN} adapter=full"])
def test_what_trains(words: str, tmp_path: Path) -> None:
    cfg = compose(f"{WORDS} {words}")
    base, tokenizer = models.load_vt5(cfg.model, seed=0)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapter = ADAPTERS[cfg.adapter.id]
    model = adapter.attach(base, cfg.adapter, 0).train()
    batch = Collator(tokenizer, base.config, 320).training(_rows())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    sent = {name.split("modules_to_save")[0] for name in adapter.get(model)}
    of_quecc = any("quecc" in name or "visual_matcher" in name for name in sent)
    assert of_quecc == (words in (FIRST, TOGETHER))
    if words != FIRST:
        assert any("decoder" in name for name in sent)
        return
    assert {name.split(".")[0] for name in sent} == {"quecc", "visual_matcher"}
    adapter.export(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    second = compose(
        f"model=vt5-tiny model.path={tmp_path} model.sha256=null "
        "+model.config.quecc={stride:2,frozen:true}"
    )
    found = models.load_vt5(second.model, seed=1)[0].state_dict()
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert {name.split(".")[0] for name in moved} == {"quecc", "visual_matcher"}


def test_the_first_stage_needs_a_compressor() -> None:
    cfg = compose("adapter=quecc")
    base, _ = models.load_vt5(cfg.model, seed=0)
    with pytest.raises(ValueError, match=r"model\.config\.quecc"):
        ADAPTERS["quecc"].attach(base, cfg.adapter, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strid": 2}, "known: frozen, heads, kernel, levels, stride"),
        ({"stride": 0}, "quecc.stride=0 should be a whole number greater than 0"),
        ({"stride": 1, "kernel": 2}, "divisor of 4"),
        ({"stride": 8}, "0 windows"),
        ({"heads": 5}, "heads=5 should divide"),
        ({"levels": 3}, "visual.num_hidden_layers=2"),
        ({"frozen": 1}, "true or false"),
    ],
)
def test_options_that_cannot_be_name_what_can(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VT5Config(visual=BEIT, quecc=options)


def test_a_compressor_needs_pictures() -> None:
    with pytest.raises(ValueError, match="set visual too"), torch.device("meta"):
        VT5ForConditionalGeneration(VT5Config(quecc={"stride": 2}))


# ---- the embedded visual encoder -----------------------------------------------------------------


def test_the_shipped_encoder_tells_marks_apart() -> None:
    """A linear layer, fitted here to the states of other pages, reads colours from its patches."""
    cfg = compose("model=vt5-tiny-quecc").model
    model, _ = models.load_vt5(cfg, seed=0)
    rows = [beit.made(first, 40) for first in (50_000, 60_000)]
    with torch.inference_mode():
        states = [
            model.visual_encoder(pixel_values(some, cfg.config.visual)).last_hidden_state[:, 1:]
            for some in rows
        ]
    # A class of a mark is 1 + kind * colours + colour.
    wanted = [beit.classes(some, 16) for some in rows]
    marked = [some != beit.NONE for some in wanted]
    colours = [(y[m] - 1) % len(COLOURS) for y, m in zip(wanted, marked, strict=True)]
    (fitted, x), targets = (
        [s[m].double() for s, m in zip(states, marked, strict=True)],
        torch.eye(len(COLOURS), dtype=torch.float64)[colours[0]],
    )
    ridge = fitted.T @ fitted + torch.eye(fitted.shape[1], dtype=torch.float64)
    guess = x @ torch.linalg.solve(ridge, fitted.T @ targets)
    assert (guess.argmax(1) == colours[1]).double().mean() > 0.9


def test_its_weights_are_small() -> None:
    assert installed("fl_app/models/beit_tiny/model.safetensors").stat().st_size < 1_000_000


# ---- in a federation -----------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_federation_trains_it_with_lora(tmp_path: Path) -> None:
    few = f"{small.RUN} model.max_answer_length=4 logger=none target.value=null"
    in_process(f"experiment=quecc {few} output.dir={tmp_path} output.name=run")
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any("quecc.downsample" in name for name in saved)
    assert any("visual_matcher" in name for name in saved)
    assert any("decoder" in name and "lora_A" in name for name in saved)
