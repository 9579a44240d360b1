"""SFPrompt: pruning, split training through real messages, and what these messages hold."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_app.aggregation.inner import inner_strategy
from fl_app.build import open_session
from fl_app.codecs import WireError
from fl_app.config import ConfigError, compose
from fl_app.models.cut import Cut
from fl_app.models.generation import unwrapped
from fl_app.preflight import check
from fl_app.seeds import turn_seed
from fl_app.server.exchanges import ExchangingCoded
from fl_app.server.round import RoundFailedError
from fl_app.session import Session
from fl_app.training.loop import train
from fl_app.tree import digest
from fl_app.wire import ledger as ledgers
from fl_app.wire.records import to_record, to_tree
from strategies import sfprompt
from strategies._el2n import el2n, pruned, scores
from strategies._layout import check_layout, layout_of, places, spread
from tests import architectures
from tests.adapters.test_any_model import overrides
from tests.disturbed import in_process
from tests.loopback import Loopback, over_the_wire

PROMPTS = 4
CASES = [("sequence_classification", "bert"), ("causal_lm", "llama"), ("docvqa", "vt5")]
PICTURES = ("docvqa", "quecc")
PAGES = (
    "task=docvqa data=docvqa_mini model.max_length=24 data.providers_per_client=2 "
    "data.documents_per_provider=1 data.test_documents=1 data.unseen_providers=1 "
    "data.unseen_documents_per_provider=1 data.public_documents=1 data.validation_documents=0 "
    "adapter=peft codec=fp32 federation.clients=2 local_epochs=1 batch_size=2 "
)
KINDS = {
    "vt5": f"model=vt5-tiny {PAGES} adapter.args.modules_to_save=[final_layer_norm]",
    "quecc": f"model=vt5-tiny-quecc {PAGES} data.marks=2 model.config.quecc.stride=8 "
    "adapter.args.modules_to_save=[final_layer_norm,quecc,visual_matcher]",
}
CODECS = {
    "fp32": "strategy.states={id:fp32}",
    "int8": "strategy.states={id:int8,block:64}",
    "uniform": "strategy.states={id:entropy,inner:{id:uniform,error:0.092}}",
    "top_k": "strategy.states={id:entropy,inner:"
    "{id:chain,links:[{id:top_k,fraction:0.2},{id:fp16}]}}",
}  # fmt: skip
EXACT = "strategy.states.id=fp32 strategy.local.gamma=1.0 strategy.local.local_loss=false"


class Talk(Loopback):
    """A loopback grid that keeps every message, both ways."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.replies: list[Message] = []

    def deliver(self, message: Message) -> Message | None:
        reply = super().deliver(message)
        if reply is not None:
            self.replies.append(over_the_wire(reply))
        return reply


class Split:
    """A federation of two clients in one process, round by round."""

    def __init__(self, folder: Path, task: str, kind: str, more: str = "", tamper=None) -> None:
        words = KINDS[kind] if kind in KINDS else overrides(folder, task, kind, "peft")
        self.words = (
            f"{words} adapter.method=PROMPT_TUNING "
            f"adapter.args.num_virtual_tokens={PROMPTS} strategy=sfprompt clients_per_round=2 "
            f"rounds=9 optimizer.lr=0.05 {more}"
        )
        self.here = open_session(self.words)
        for module in self.here.model.modules():  # the split draws other dropout than the whole
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self.grid = Talk(self.words, 2, tamper)
        self.ledger = ledgers.Ledger(folder / "ledger.csv")
        self.coded = ExchangingCoded(inner_strategy(self.here.cfg), self.here, self.ledger)
        self.arrays = to_record(self.here.theta0)

    def round(self, number: int) -> dict[str, np.ndarray]:
        messages = self.coded.configure_train(number, self.arrays, ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages)
        self.arrays, _ = self.coded.aggregate_train(number, replies)
        return to_tree(self.arrays, like=self.here.theta0)

    def rows(self, kind: str, direction: str | None = None) -> list[ledgers.Transfer]:
        return [r for r in self.ledger.rows if r.kind == kind and direction in (None, r.direction)]


@pytest.fixture(params=CASES, ids=lambda case: case[1])
def case(request) -> tuple[str, str]:
    return request.param


def centralized(here: Session, client: int, number: int, start) -> dict[str, np.ndarray]:
    """Train the whole model on a client's rows, in the ordinary local loop."""
    cfg = here.cfg
    here.adapter.set(here.model, start)
    train(
        here.model, here.documents(client), here.task, cfg.optimizer,
        epochs=cfg.strategy.local.split_epochs, batch_size=cfg.batch_size,
        gradient_accumulation=cfg.gradient_accumulation, seed=turn_seed(cfg.seed, number, client),
    )  # fmt: skip
    return here.adapter.get(here.model)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_split_training_is_that_of_the_whole_model(
    tmp_path: Path, case: tuple[str, str], accumulated: int
) -> None:
    """Two rounds of two passes; without pruning, local-loss update and rounding."""
    more = f"{EXACT} strategy.local.split_epochs=2 gradient_accumulation={accumulated} batch_size=1"
    split = Split(tmp_path, *case, more)
    here, x = split.here, split.here.theta0
    for number in (1, 2):
        whole = [centralized(here, client, number, x) for client in (0, 1)]
        mean = {n: np.mean([one[n] for one in whole], axis=0) for n in x}
        assert all(not np.array_equal(mean[n], x[n]) for n in x)
        x = split.round(number)
        for name in x:
            np.testing.assert_allclose(x[name], mean[name], rtol=2e-4, atol=2e-6)


def test_head_and_body_never_change(tmp_path: Path, case: tuple[str, str]) -> None:
    split = Split(tmp_path, *case)
    frozen = {n: p for n, p in split.here.model.named_parameters() if not p.requires_grad}
    before = digest({n: p.detach().numpy().copy() for n, p in frozen.items()})
    start = split.here.theta0
    assert all(not np.array_equal(x, start[n]) for n, x in split.round(1).items())
    assert digest({n: p.detach().numpy().copy() for n, p in frozen.items()}) == before


# ---- what is sent ------------------------------------------------------------------------------


def expected_states(split: Split, client: int) -> tuple[int, int, int]:
    """Return the states of a client's rows, those that the tail reads, and the steps of a pass."""
    here = split.here
    rows = here.documents(client)
    states = read = 0
    for row in rows:
        batch = here.task.training([row])
        own = batch["input_ids"].shape[1] + PROMPTS
        if here.cfg.task.id == "docvqa":
            vt5 = unwrapped(here.model)
            pages = len(row["questions"]) if vt5.page_per_question else 1
            own = pages * (own + vt5.visual_tokens_per_page)
            read += own
        else:
            read += int((batch["labels"] != -100).sum()) if batch["labels"].dim() > 1 else 1
        states += own
    return states, read, -(-len(rows) // here.cfg.batch_size)


@pytest.mark.parametrize("case", [*CASES, PICTURES], ids=lambda case: case[1])
def test_bytes_of_each_phase_are_those_of_the_formula(
    tmp_path: Path, case: tuple[str, str]
) -> None:
    """In fp16 2 h (T + n) for a and dL/da, 2 h for each z that is read and its gradient."""
    split = Split(tmp_path, *case, "strategy.local.gamma=1.0 strategy.local.split_epochs=2")
    split.round(1)
    split.round(2)
    size = sum(x.size for x in split.here.theta0.values())
    h = next(x.shape[1] for name, x in split.here.theta0.items() if "prompt" in name)
    layout = 4 * (4 * split.here.method.most_rows + 1)
    for client in (0, 1):
        states, read, steps = expected_states(split, client)
        for number in (1, 2):
            here = [r for r in split.ledger.rows if (r.round, r.partition) == (number, client)]
            paid = Counter()
            for row in here:
                paid[row.kind, row.direction] += row.payload_bytes
                paid[row.kind, row.direction, "messages"] += 1
            values = 2 * 2 * h * (states + read)  # two passes of two bytes
            assert paid["split", "up"] == values + 2 * steps * layout
            assert paid["split", "down"] == values
            assert paid["split", "up", "messages"] == paid["split", "down", "messages"] == 4 * steps
            # Phase 0 and 1 have no message; the first download is derived.
            assert paid["train", "down"] == (4 * size if number == 2 else 0)
            assert paid["train", "up"] == 4 * size
            assert paid["train", "up", "messages"] == paid["train", "down", "messages"] == 1
    seen = [m for m in split.grid.sent + split.grid.replies if m.metadata.message_type == "train"]
    assert len(seen) == len(split.rows("train")) + len(split.rows("split"))
    assert split.ledger.total_of("payload_bytes", "train") == sum(
        r.payload_bytes for r in split.ledger.rows
    )


def encodings(ids: list[int]) -> dict[str, bytes]:
    """Return how numbers may stand in a message."""
    kinds = ("<i8", "<i4", "<i2", "<f8", "<f4", "<f2")
    return {kind: np.array(ids).astype(kind).tobytes() for kind in kinds}


def secrets(batch: dict[str, torch.Tensor]) -> Iterator[list[int]]:
    """Yield what of a row may stand in no message: ids of its texts, its labels, a box."""
    for name in ("input_ids", "decoder_input_ids", "question"):
        for ids in batch[name].tolist() if name in batch else ():
            yield from (one for one in (ids[:4], ids[-4:]) if len({*one}) > 2)
    for taught in batch["labels"].tolist() if batch["labels"].dim() > 1 else ():
        taught = [one for one in taught if one != -100]
        if len(taught) > 3:
            yield taught[:4]
    if "bbox" in batch:
        yield batch["bbox"][0, 1].tolist()


def seen(batch: dict[str, torch.Tensor]) -> Iterator[bytes]:
    """Yield some pixels of a row's picture where it is not of one colour, as they may be sent."""
    for picture in batch.get("pixel_values", torch.zeros(0)):
        line = next(x for x in picture.flatten(0, 1) if len(x.unique()) > 3)
        at = int((line[1:] != line[:-1]).nonzero()[0])
        some = line[at : at + 8].numpy()
        yield from (some.astype(kind).tobytes() for kind in ("<f4", "<f2", "<f8"))


@pytest.mark.parametrize("case", [*CASES, PICTURES], ids=lambda case: case[1])
def test_no_message_holds_a_text_a_token_a_label_or_a_pixel(
    tmp_path: Path, case: tuple[str, str]
) -> None:
    """In every byte that is sent, either way, of rows that all stay."""
    split = Split(tmp_path, *case, f"{EXACT} batch_size=4")
    sent = split.round(1)
    messages = split.grid.sent + split.grid.replies
    talk = [message_to_proto(one).SerializeToString() for one in messages]
    everything = b"\n".join(talk)
    # What is sent is found: so would be what should not be.
    assert sum(x.tobytes() in everything for x in sent.values()) == 0  # a mean is not sent yet
    split.round(2)
    talk = [message_to_proto(one).SerializeToString() for one in split.grid.sent]
    assert any(next(iter(sent.values())).tobytes() in one for one in talk)
    replies = [message_to_proto(one).SerializeToString() for one in split.grid.replies]
    everything = b"\n".join(talk + replies)
    for client in (0, 1):
        rows = split.here.documents(client)
        for row in rows:
            texts = row["words"] + row["questions"] if "words" in row else row.values()
            for text in texts:
                if len(str(text)) > 3:
                    assert str(text).encode() not in everything
            batch = split.here.task.training([row])
            assert [*seen(batch)] or "pixel_values" not in batch
            assert not any(pixels in everything for pixels in seen(batch))
            for secret in secrets(batch):
                for kind, found in encodings(secret).items():
                    assert found not in everything, kind
        labels = split.here.task.training(list(rows))["labels"]
        if labels.dim() == 1:
            for order in (labels, labels.flip(0)):
                for kind, found in encodings(order.tolist()).items():
                    if len(found.strip(b"\0")) > 2:
                        assert found not in everything, kind


@pytest.mark.parametrize("codec", CODECS)
def test_states_travel_by_any_codec(tmp_path: Path, codec: str) -> None:
    """The bytes differ; the round goes the same way."""
    split = Split(tmp_path, *CASES[0], CODECS[codec])
    after = split.round(1)
    assert all(np.isfinite(x).all() for x in after.values())
    name = {"uniform": "entropy(uniform)", "top_k": "entropy(top_k+fp16)"}.get(codec, codec)
    assert {r.codec for r in split.rows("split")} == {
        f"activations:{name} layout:fp32",
        *(f"{part}:{name}" for part in ("states", "cotangents", "gradients")),
    }
    (a, *_) = split.rows("split", "up")
    values = a.scalars - 4 * split.here.cfg.batch_size - 1
    if codec == "fp32":
        assert a.payload_bytes == 4 * a.scalars
    else:
        assert a.payload_bytes < 2 * values + 4 * (a.scalars - values)


# ---- pruning -----------------------------------------------------------------------------------


class Says(torch.nn.Module):
    """A classifier whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, labels: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.logits})()


@settings(max_examples=50)
@given(
    rows=st.integers(1, 8),
    classes=st.integers(2, 6),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_el2n_is_between_0_and_sqrt_2(rows: int, classes: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    found, owner = el2n(Says(logits), {"labels": labels})
    assert torch.equal(owner, torch.arange(rows))
    p = logits.double().softmax(-1)
    p[torch.arange(rows), labels] -= 1
    torch.testing.assert_close(found.double(), p.norm(dim=-1), atol=1e-6, rtol=1e-5)
    assert (found >= 0).all()
    assert (found <= 2**0.5 + 1e-6).all()
    sure = 1e4 * torch.nn.functional.one_hot(labels, classes).float()
    assert (el2n(Says(sure), {"labels": labels})[0] == 0).all()


def test_el2n_of_a_decoder_is_the_mean_over_a_rows_labels(tmp_path: Path) -> None:
    split = Split(tmp_path, *CASES[1])
    here = split.here
    rows = [dict(row) for row in here.documents(0)]
    with torch.no_grad():
        together = scores(here.model, here.task, rows)
        for row, score in zip(rows, together, strict=True):
            batch = here.task.training([row])
            p = here.model(**batch).logits[0, PROMPTS:].double().softmax(-1)
            ids = batch["labels"][0]
            errors = []
            for place in range(1, len(ids)):
                if ids[place] != -100:
                    one = p[place - 1].clone()
                    one[ids[place]] -= 1
                    errors.append(one.norm())
            np.testing.assert_allclose(score, float(torch.stack(errors).mean()), rtol=1e-4)


def test_el2n_of_a_document_is_the_mean_over_the_tokens_of_its_answers(tmp_path: Path) -> None:
    split = Split(tmp_path, *CASES[2])
    here = split.here
    rows = [dict(row) for row in here.documents(0)]
    with torch.no_grad():
        together = scores(here.model, here.task, rows)
        for row, score in zip(rows, together, strict=True):
            errors = []
            for question, answers in zip(row["questions"], row["answers"], strict=True):
                asked = {**row, "questions": [question], "answers": [answers]}
                errors.append(el2n(here.model, here.task.training([asked]))[0])
            assert len(errors) == 8
            np.testing.assert_allclose(score, float(torch.cat(errors).mean()), rtol=1e-4)


def test_the_hardest_rows_stay_and_the_same_in_every_run(
    tmp_path: Path, case: tuple[str, str]
) -> None:
    split = Split(tmp_path, *case)
    here, rows = split.here, split.here.documents(0)
    found = [pruned(here.model, here.task, rows, 0.5, size) for size in (1, 2, 3)]
    assert all(np.array_equal(one, found[0]) for one in found)
    assert len(found[0]) == len(rows) // 2
    with torch.no_grad():
        every = [float(scores(here.model, here.task, [row])[0]) for row in rows]
    left = {*range(len(rows))} - {*found[0].tolist()}
    assert min(every[i] for i in found[0]) >= max(every[i] for i in left)
    assert np.array_equal(pruned(here.model, here.task, rows, 1.0, 2), np.arange(len(rows)))
    assert len(pruned(here.model, here.task, rows, 0.01, 2)) == 1


def test_phases_without_the_body_send_nothing_and_train(tmp_path: Path) -> None:
    """The local-loss update changes the first states that a client sends."""
    sent = []
    for on in ("true", "false"):
        more = f"strategy.local.gamma=1.0 strategy.local.local_loss={on} local_epochs=3"
        split = Split(tmp_path, *CASES[0], more)
        messages = split.coded.configure_train(1, split.arrays, ConfigRecord(), split.grid)
        replies = split.grid.send_and_receive(messages)
        assert len(split.grid.replies) == 4  # who is there, and the first states, of two clients
        sent.append([one.content[""][""] for one in replies])
    assert [len(one) for one in sent[0]] == [len(one) for one in sent[1]]
    assert sent[0] != sent[1]


def test_the_local_loss_update_is_of_the_rows_that_stay_which_are_then_scored_again(
    tmp_path: Path,
) -> None:
    here = Split(tmp_path, *CASES[0]).here
    rows, model, method = here.documents(0), here.model, here.method
    assert isinstance(method, sfprompt.SFPromptClient)
    cut, trained = Cut(model, 1), []

    def train_(hooks: Any, some: Any) -> None:
        trained.append(some.to_list())
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(5 * torch.randn_like(p) * p.requires_grad)

    def stay() -> np.ndarray:
        with cut.without_body():
            return pruned(model, here.task, rows, method.gamma, method.batch_size)

    before = stay()
    turn: Any = SimpleNamespace(model=model, task=here.task, rows=lambda: rows, train=train_)
    kept = method.begin(turn, cut)
    assert trained == [rows.select(before).to_list()]
    assert np.array_equal(kept["rows"], stay())
    assert not np.array_equal(kept["rows"], before)


def test_dropout_is_the_same_in_all_passes_of_a_step(tmp_path: Path) -> None:
    here = Split(tmp_path, *CASES[0], "batch_size=1 gradient_accumulation=2").here
    rows, method = here.documents(0), here.method
    assert isinstance(method, sfprompt.SFPromptClient)
    turn: Any = SimpleNamespace(model=here.model, task=here.task, rows=lambda: rows, seed=3)

    def drawn(step: int) -> list[float]:
        kept = {"rows": np.arange(len(rows)), "step": np.array([step])}
        return [float(torch.rand(())) for _ in method.batches(turn, kept)]

    first, second = drawn(0), drawn(1)
    assert drawn(0) == first
    assert len({*first, *second}) == 4


# ---- where states belong, and who says so --------------------------------------------------------


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    size=st.integers(1, 4),
    data=st.data(),
)
def test_states_come_back_to_their_places(lengths: list[int], size: int, data) -> None:
    rows = []
    for length in lengths:
        first = data.draw(st.integers(0, length - 1))
        rows.append((length, first, data.draw(st.integers(0, length - first))))
    table = np.zeros((9, 4), np.float32)
    table[: len(rows)] = [(index // size, *row) for index, row in enumerate(rows)]
    found = places(table, torch.device("cpu"))
    assert sum(len(one.states) for one in found) == len(rows)
    rng = np.random.default_rng(0)
    for start, one in zip(range(0, len(rows), size), found, strict=True):
        some = rows[start : start + size]
        assert one.states.sum(1).tolist() == [row[0] for row in some]
        assert one.read.sum(1).tolist() == [row[2] for row in some]
        assert not (one.read & ~one.states).any()
        values = torch.from_numpy(rng.normal(size=(int(one.states.sum()), 3)))
        whole = spread(values, one.states)
        assert torch.equal(whole[one.states], values)
        assert not whole[~one.states].any()


def test_a_decoder_reads_the_states_before_its_labels() -> None:
    model = architectures.model("llama")
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, 5, -100, 6, 9], [-100] * 5])
    mask = torch.tensor([[1] * 7 + [0], [1] * 8, [1] * 8]).bool()  # three prompts
    assert layout_of(model, labels, mask).tolist() == [[7, 4, 2], [8, 3, 4], [8, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "left", "states"),
    [
        ([[3, 0, 4]], 0, 3),  # reads more than there is
        ([[3, 0, 1]], 0, 4),  # of other states than were sent
        ([[2.5, 0, 1]], 0, 2),
        ([[-3, 0, 1], [6, 0, 1]], 0, 3),
        ([[0, 0, 0], [3, 0, 1]], 0, 3),  # a row without states before one with some
        ([[3, 0, 0]], 0, 3),  # nothing is read
        ([[3, 0, 1]], -1, 3),
        ([[3, 0, 1]], 0.5, 3),
        ([[3, 0, 1]], 1e9, 3),
        ([[np.nan, 0, 1]], 0, 3),
    ],
)
def test_a_layout_that_cannot_be_is_refused(rows, left: float, states: int) -> None:
    table = np.array([[0, *row] for row in rows], np.float32)
    layout = {"rows": table, "left": np.array([left], np.float32)}
    with pytest.raises(WireError):
        check_layout(layout, states)


@pytest.mark.parametrize("batch", [-1, 0.5, 2, np.inf, np.nan])
def test_a_batch_that_cannot_be_is_refused(batch: float) -> None:
    layout = {"rows": np.array([[batch, 3, 0, 1]], np.float32), "left": np.zeros(1, np.float32)}
    with pytest.raises(WireError):
        check_layout(layout, 3)


def test_a_document_of_too_many_questions_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sfprompt, "MOST_QUESTIONS", 1)
    split = Split(tmp_path, *PICTURES, "strategy.local.gamma=1.0")
    with pytest.raises(RoundFailedError, match="4 pages, should be at most 2"):
        split.round(1)


def test_a_row_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """Many states said to be one row's, beside short rows that would be padded to it."""
    method = Split(tmp_path, *CASES[0]).here.method
    assert isinstance(method, sfprompt.SFPromptClient)
    for length in (method.longest, method.longest + 1, np.nan):
        layout = {"rows": np.array([[0, 1, 0, 1], [0, length, 0, 1]], np.float32)}
        refused = pytest.raises(WireError, match=f"a row of {length} states, should be at most")
        with nullcontext() if length == method.longest else refused:
            method.check_sent({"layout": layout}, 1, 1)


def test_a_client_that_fails_in_the_middle_is_left_out(tmp_path: Path) -> None:
    answered = []

    def breaks(reply: Message) -> Message:
        answered.append(reply)
        if len(answered) == 3:  # after its first step
            reply.content = RecordDict()
        return reply

    split = Split(tmp_path, *CASES[0], f"{EXACT} federation.max_failures=0.5", {1: breaks})
    alone = centralized(split.here, 0, 1, split.here.theta0)
    after = split.round(1)
    for name, x in after.items():
        np.testing.assert_allclose(x, alone[name], rtol=2e-4, atol=2e-6)
    (lost,) = [r for r in split.ledger.rows if r.outcome == ledgers.LOST]
    assert (lost.partition, lost.kind) == (1, "split")
    assert "no record" in lost.reason
    assert len(answered) == 3  # nothing more was asked of it


def test_a_message_out_of_turn_is_answered_with_an_error(tmp_path: Path) -> None:
    """A node that has lost what it kept says so, and so does one that is asked again."""
    split = Split(tmp_path, *CASES[0])
    split.round(1)
    question = [m for m in split.grid.sent if m.metadata.message_type == "train"][-1]
    reply = split.grid.deliver(question)
    assert reply is not None
    assert "has lost what it remembered" in reply.error.reason
    for context in split.grid.contexts.values():  # nothing of a round is left
        assert not [key for key in context.state if key.startswith("between.")]


def test_a_round_that_was_interrupted_begins_anew(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    split = Split(folders[0], *CASES[0])
    messages = split.coded.configure_train(1, split.arrays, ConfigRecord(), split.grid)
    split.grid.send_and_receive(messages)  # the first states are sent, and the server stops
    again = split.round(1)
    other = Split(folders[1], *CASES[0]).round(1)
    assert all(np.array_equal(again[n], other[n]) for n in again)


# ---- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("adapter.method=IA3 adapter.args={}", "adapter.method=PROMPT_TUNING"),
        ("strategy.local.head_blocks=0", "head_blocks=0 should be a whole number from 1"),
        ("strategy.local.head_blocks=3", "local.head_blocks=3: .* the model's 3 to"),
        ("strategy.local.split_epochs=100000", "split_epochs=100000 should be at most"),
        ("strategy.local.gamma=0.0", r"gamma=0.0 should be in \(0, 1\]"),
        ("optimizer=shampoo", "optimizer.id=shampoo should be adamw"),
        ("privacy=dp_sgd privacy.epsilon=8", "privacy=none"),
        ("federation.sampling=nodes", "set it to partitions"),
        ("turns=[{local_epochs:2}]", "turns change"),
        ("strategy.inner.head_blocks=2", "both ends cut"),
        ("strategy.states={id:error_feedback,inner:{id:fp16}}", "remembers"),
    ],
)
def test_what_cannot_be_split_is_refused_before_it_starts(words: str, said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        check(compose(f"experiment=sfprompt {words}"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_vt5_may_be_split(kind: str) -> None:
    check(compose(f"experiment=sfprompt {KINDS[kind]}"))


def test_the_experiment_runs_and_its_ledger_adds_up(tmp_path: Path) -> None:
    words = (
        "experiment=sfprompt rounds=1 federation.clients=2 data.providers_per_client=1 "
        "data.problems_per_provider=3 data.test_problems=2 data.validation_problems=0 "
        "data.unseen_providers=1 data.unseen_problems_per_provider=1 model.max_answer_length=8 "
        f"batch_size=2 logger=none output.dir={tmp_path} output.name=run"
    )
    in_process(words)
    rows = ledgers.read(tmp_path / "run" / "ledger.csv")
    assert {r.kind for r in rows.rows} == {"setup", "train", "split"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["bytes"]["total"] == sum(r.message_bytes for r in rows.rows)
    assert summary["bytes"]["payload_up"] == sum(
        r.payload_bytes for r in rows.rows if r.direction == "up"
    )
