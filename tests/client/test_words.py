"""What leaves a real node in words: kinds of a closed list, whatever is in its rows and files.

A marker is in rows, in names of files and folders and in the environment of a node; every kind of
error is provoked, and every byte that the node sends is read.
"""

import ast
import json
import logging
import pickle
import re
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_app import faults
from fl_app.build import forget_session, open_session
from fl_app.client import answered, budget
from fl_app.client.simulated import is_simulated, simulated_in_process
from fl_app.client.words import BY_TYPE, NodeApp, error_reply
from fl_app.client_app import app
from fl_app.codecs import WireError, from_spec
from fl_app.config import ConfigError
from fl_app.faults import KINDS, FaultError, during
from fl_app.privacy.spent import SPENT
from fl_app.simulation import bundle, executor
from fl_app.simulation.loopback import over_the_wire
from fl_app.training.local import LocalMethod
from fl_app.wire.envelope import enclosed
from fl_app.wire.frame import pack
from fl_app.wire.heads import QUESTION
from fl_app.wire.messages import ARRAYS, BARE, FRAME, PATCH, SECURE_KEYS, SETUP
from tests import small

ROOT = Path(__file__).parents[2]
MARKER = "Marker7f3a9"
TEXTS = "data=table task=causal_lm model=llama-tiny data.test.path=/only/on/the/server.jsonl"
CLASSES = (
    "data=table task=sequence_classification task.texts=[query] task.label=response "
    "task.labels=[a,b] model=llama-tiny data.test.path=/only/on/the/server.jsonl"
)
RUN = "federation.clients=3 rounds=1 local_epochs=1 batch_size=2 codec=fp32 strategy=fedavg"
PRIVATE = "privacy=dp_sgd adapter=ffa_lora privacy.epsilon=8"
SCORES = "evaluate_clients_per_round=1"
SECURE = "strategy=secure_fedavg codec=modular clients_per_round=3"
ROWS = [{"instruction": f"{MARKER} {i}", "output": f"{MARKER} {i}"} for i in range(4)]


@dataclass
class Node:
    """A real node in this process, and everything that it has sent."""

    folder: Path
    policies: list[Path]
    sent: list[bytes] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)

    def rows(self, rows: list[dict], name: str = f"{MARKER}.jsonl") -> Path:
        path = self.folder / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    def ask(self, action: str, overrides: str, path: object = None, **more: object) -> Message:
        """Put a question, with a frame, to a node that ``lacks`` a key; ``more``: the config."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        frame, lacks = more.pop("frame", None), more.pop("lacks", None)
        run = int(str(more.pop("run", 1)))
        config = {
            "partition-id": 0, "num-partitions": 3, "state-dir": str(self.folder / "state"),
            "policy": str(self.policies[PRIVATE in overrides]),
        }  # fmt: skip
        if path is not None:
            config["data-path"] = str(path)
        if lacks is not None:
            del config[str(lacks)]
        context = Context(
            run_id=run, node_id=1, node_config=config, state=RecordDict(),
            run_config={"overrides": f"{RUN} {overrides}"},
        )  # fmt: skip
        said = {"partition": 0, "server-round": 1, "accepted": 0}
        head = b""
        if action in ("train", "evaluate"):
            said |= {key: more.pop(key) for key in QUESTION.fields if key in more}
            head, said = QUESTION.write(said), {}
        content = RecordDict({"config": ConfigRecord({**said, **more})} if said or more else {})
        if not isinstance(frame, ArrayRecord):
            content.update(enclosed(frame, head))
        else:
            content.update(enclosed(None, head))
            content[ARRAYS] = frame
        message = Message(content, 1, action)
        message.metadata.__dict__["_message_id"] = "0" * 64
        assert not is_simulated()
        reply = app(over_the_wire(message), context)
        self.sent.append(message_to_proto(reply).SerializeToString())
        self.replies.append(reply)
        return reply

    def train(self, overrides: str, path: object = None, **changed: object) -> Message:
        """Send the start of the model, as the server would; ``changed``: spec, manifest, tree."""
        here = open_session(f"{RUN} {overrides}")
        codec = from_spec(changed.pop("spec", dict(here.down.spec)))
        tree = {**here.theta0, **changed.pop("tree", {})}
        wire, _ = codec.encode(tree, codec.init(here.theta0), here.theta0)
        frame = bytearray(pack(wire, codec, changed.pop("manifest", here.manifest)))
        for at, byte in changed.pop("bytes", {}).items():
            frame[at] = byte
        action = str(changed.pop("action", "train"))
        return self.ask(action, overrides, path, frame=bytes(frame), **changed)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("SECRET_TOKEN", MARKER)
    folder = tmp_path / f"ward-{MARKER}"
    folder.mkdir()
    rows = {"least": 0, "part": True, "folders": ["/only", str(tmp_path)]}
    models = {"folders": [str(tmp_path / "model")]}
    policies = []
    for epsilon in (None, 8):  # of an operator who has set one, no run without privacy is taken
        privacy = {"noise": "any", "epsilon": epsilon}
        policies.append(folder / f"{MARKER}-{epsilon}.yaml")
        policies[-1].write_text(json.dumps({"rows": rows, "models": models, "privacy": privacy}))
        policies[-1].chmod(0o600)
    return Node(folder, policies)


class _Reader(LocalMethod):
    """Looks at the rows by itself, past the noise."""

    def run(self, given):
        given.rows()
        return super().run(given)


def _reads_rows(node: Node) -> None:
    here = open_session(f"{RUN} {TEXTS} {PRIVATE}")
    before, here.method = here.method, _Reader()
    try:
        node.train(f"{TEXTS} {PRIVATE}", node.rows(ROWS))
    finally:
        here.method = before


def _without_weights(node: Node) -> None:
    """A model's folder that the run may name, and that has no weights."""
    folder = node.folder.parent / "model"
    folder.mkdir()
    source = ROOT / "fl_app/models/llama_tiny"
    for file in source.glob("*.json"):
        (folder / file.name).write_text(file.read_text())
    node.ask("query", f"{TEXTS} model.path={folder} model.sha256=null", node.rows(ROWS))


def _no_file(node: Node) -> None:
    (node.folder / "state" / "1" / "continues.json").mkdir(parents=True)
    node.train(f"{TEXTS} codec=sign", node.rows(ROWS))


def _broken_policy(node: Node) -> None:
    node.policies[False].write_text(f"rows: {{{MARKER}: 1}}")
    node.ask("query", TEXTS, node.rows(ROWS))


def _no_budget(node: Node) -> None:
    (node.folder / "state").mkdir()
    (node.folder / "state" / budget.BEGUN).touch()
    node.train(f"{TEXTS} {PRIVATE}", node.rows(ROWS))


def _mixes_rows(node: Node) -> None:
    """No model of these tasks has a layer that normalizes over a batch: one is put in."""
    overrides = f"{TEXTS} {PRIVATE} seed=5"
    model = open_session(f"{RUN} {overrides}").model
    model.add_module("norm", nn.BatchNorm1d(1).requires_grad_(False))
    try:
        node.train(overrides, node.rows(ROWS))
    finally:
        del model.norm


def _idle(node: Node) -> None:
    overrides = f"{TEXTS} adapter=full seed=6"
    here = open_session(f"{RUN} {overrides}")
    here.model.register_parameter("idle", nn.Parameter(here.model.lm_head.weight.new_ones(2)))
    here.theta0 = here.adapter.get(here.model)
    try:
        node.train(overrides, node.rows(ROWS))
    finally:
        forget_session()


def _no_folder(node: Node) -> None:
    (node.folder / "state" / "1" / answered.FILE).mkdir(parents=True)
    node.ask(f"query.{SECURE_KEYS}", f"{TEXTS} {SECURE}", node.rows(ROWS))


def _too_large(node: Node) -> None:
    """Weights at which training goes well and which half floats cannot hold."""
    overrides = f"{TEXTS} codec=fp16 codec.down.id=fp32 adapter=lora"
    here = open_session(f"{RUN} {overrides}")
    name = next(name for name in here.theta0 if "lora_A" in name)
    node.train(overrides, node.rows(ROWS), tree={name: np.full_like(here.theta0[name], 1e6)})


def _pictures(node: Node) -> None:
    documents = open_session(f"{RUN} {small.DATA}").documents(0)
    path = node.folder / "rows.parquet"
    there = str(node.folder / "scan.jpg")
    documents.add_column("picture", [there] * len(documents)).to_parquet(path)
    node.train(f"{small.DATA} model=vt5-tiny-visual", path)


# Every kind of fault to what provokes it: who adds a kind adds a line, or the test below fails.
PROVOKED: dict[str, Callable[[Node], object]] = {
    "clients": lambda node: node.train(
        f"{TEXTS} data.train.path={node.rows(ROWS, 'train.jsonl')} "
        f"data.test.path={node.rows(ROWS, 'test.jsonl')} data.partitioner.id=client_column "
        "+data.partitioner.column=output federation.clients=7"
    ),
    "codec": _too_large,
    "columns": lambda node: node.ask("query", TEXTS, node.rows([{MARKER: "x"}])),
    "configuration": lambda node: node.ask(
        "train", "model.path='/x/${oc.env:SECRET_TOKEN}'", frame=b""
    ),
    "disk": _no_file,
    "diverged": lambda node: node.train(f"{TEXTS} optimizer.lr=1e30", node.rows(ROWS)),
    "empty": lambda node: node.ask("query", TEXTS, node.rows([*ROWS, {**ROWS[0], "output": None}])),
    "format": lambda node: node.ask(
        "query", f"{TEXTS} +data.formats.output=%Y", node.rows([{**ROWS[0], "output": 1.5}])
    ),
    "kind": lambda node: node.ask("query", TEXTS, node.rows([{**ROWS[0], "output": 1.5}])),
    "label": lambda node: node.ask(
        "query", CLASSES, node.rows([{"query": MARKER, "response": x} for x in ("a", MARKER, "c")])
    ),
    "memory": lambda node: node.ask(
        "query", f"{TEXTS} model.path=random model.sha256=null model.tokenizer=embedded:llama_tiny "
        f"+model.config.model_type=llama +model.config.hidden_size={2**22} "
        f"+model.config.vocab_size={2**20}", node.rows(ROWS),
    ),
    "mixes_rows": _mixes_rows,
    "model": _without_weights,
    "no_gradient": _idle,
    "no_rows": lambda node: node.ask(
        "query", f"{CLASSES} +data.train.drop.response=[a]",
        node.rows([{"query": MARKER, "response": "a"}]),
    ),
    "no_source": lambda node: node.train(f"{TEXTS} data.test.path={node.rows(ROWS, 'test.jsonl')}"),
    "node_config": lambda node: node.ask("query", TEXTS, lacks="partition-id"),
    "other_codec": lambda node: node.train(TEXTS, node.rows(ROWS), spec={"id": "fp16"}),
    "other_model": lambda node: node.train(TEXTS, node.rows(ROWS), manifest=bytes(8)),
    "other_version": lambda node: node.train(TEXTS, node.rows(ROWS), bytes={1: 99}),
    "partition": lambda node: node.train(TEXTS, node.rows(ROWS), partition=2),
    "partitions": lambda node: node.ask("query", f"{TEXTS} federation.clients=4", node.rows(ROWS)),
    "picture": _pictures,
    "answered": lambda node: [
        node.ask(f"query.{SECURE_KEYS}", f"{TEXTS} {SECURE}", node.rows(ROWS)) for _ in range(2)
    ],
    "budget": lambda node: [
        node.train(f"{TEXTS} {PRIVATE}", node.rows(ROWS), run=run) for run in (1, 2)
    ],
    "budget_lost": _no_budget,
    "other_value": lambda node: node.train(TEXTS, node.rows(ROWS), **{"proximal-mu": 1.0}),
    "private_rows": _reads_rows,
    "round_again": lambda node: [
        node.train(f"{TEXTS} {PRIVATE}", node.rows(ROWS)) for _ in range(2)
    ],
    "scores": lambda node: node.train(TEXTS, node.rows(ROWS), action="evaluate"),
    "secure_sum": lambda node: node.ask(f"query.{SECURE_KEYS}", TEXTS, node.rows(ROWS)),
    "state_dir": _no_folder,
    "policy": lambda node: node.ask("query", f"{TEXTS} rounds=2000", node.rows(ROWS)),
    "policy_file": _broken_policy,
    "reference": lambda node: node.train(
        f"{TEXTS} {SCORES} task.answer=number",
        node.rows([{"instruction": MARKER, "output": "Marker"}]),
        action="evaluate",
    ),
    "rows": lambda node: node.ask("query", TEXTS, node.folder / "gone.jsonl"),
    "signs": lambda node: node.ask(f"query.{SETUP}", TEXTS, node.rows(ROWS)),
    "state": lambda node: node.ask(f"query.{PATCH}", TEXTS, number=1, rank=1,
                                   frame=b""),
    "unexpected": lambda node: node.ask("query.nonsense", TEXTS),
    "wire": lambda node: node.ask("train", TEXTS, node.rows(ROWS), frame=ArrayRecord({})),
}  # fmt: skip


# Raised before there is an app, see the test of what fails around it; and by tasks: tests/tasks.
AROUND = {"bundle", "answers", "conversation"}
AROUND |= {"lost_memory", "slots"}  # by a method: tests/strategies


def shape(kind: str) -> re.Pattern[str]:
    """Return what a reason of ``kind`` looks like, with anything but markup for its facts."""
    parts = string.Formatter().parse(f"{kind}: {KINDS[kind]}")
    text = "".join(re.escape(words) + (".{1,230}" if name else "") for words, name, _, _ in parts)
    return re.compile(rf"{text} \(fault [0-9a-f]{{8}} in the node's log\)")


def _literal(node: ast.expr) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def _kinds_in_the_code() -> set[str]:
    """The kinds that a line of the code names: where one is raised, and those chosen by type."""
    found = {kind for _, kind in BY_TYPE}
    for path in [*(ROOT / "fl_app").rglob("*.py"), *(ROOT / "strategies").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in {"FaultError", "during"} and node.args:
                    found |= _literal(node.args[0])
                if name == "__init__" and node.args:  # of a class of its own
                    found |= _literal(node.args[0]) & {*KINDS}
                for keyword in node.keywords:
                    if name in {"WireError", "CodecError"} and keyword.arg == "kind":
                        found |= _literal(keyword.value)
    return found | {"unexpected", "wire", "codec"}


def test_every_kind_is_one_of_the_list_and_is_provoked_here() -> None:
    assert _kinds_in_the_code() <= {*KINDS}
    assert {*PROVOKED} | AROUND == _kinds_in_the_code()


@pytest.mark.parametrize("kind", sorted(PROVOKED))
def test_nothing_of_the_node_is_in_the_bytes_of_an_error(kind: str, node: Node, caplog) -> None:
    caplog.set_level(logging.ERROR, logger="thinwire")
    PROVOKED[kind](node)
    sent, reply = node.sent[-1], node.replies[-1]
    assert reply.has_error()
    reason = reply.error.reason
    assert shape(kind).fullmatch(reason), reason
    for secret in (MARKER, str(node.folder.parent), "Traceback", str(ROOT)):
        assert secret.encode() not in sent
    reference = re.search("fault ([0-9a-f]{8})", reason)[1]
    lines = [r.getMessage() for r in caplog.records if r.name == "thinwire"]
    assert f"fault {reference}: {reason}" in lines
    assert all(line.isprintable() for line in lines)
    assert f"fault {reference}: Traceback (most recent call last):" in lines


def test_a_run_cannot_count_the_rows_that_hold_a_value(node: Node) -> None:
    """It chooses the column and the labels, and each node would say of how many rows."""
    said = []
    for others in (1, 2):
        rows = node.rows([{"query": "x", "response": x} for x in ["a"] * 4 + [MARKER] * others])
        said.append(node.ask("query", CLASSES, rows).error.reason.partition(" (fault")[0])
    assert said[0] == said[1]
    assert said[0].startswith("label: ")


RAISED = (
    ConfigError, FileNotFoundError, FloatingPointError, KeyError, MemoryError, OSError,
    RecursionError, RuntimeError, StopIteration, TypeError, ValueError,
)  # fmt: skip


def _question() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = "0" * 64
    return message


@given(st.sampled_from(RAISED), st.text(), st.text())
def test_no_other_reason_can_leave_a_node(kind: type[Exception], text: str, cause: str) -> None:
    try:
        try:
            raise ValueError(f"{MARKER}{cause}")
        except ValueError as first:
            raise kind(f"{MARKER}\n{text}") from first
    except kind as error:
        reply = error_reply(error, _question())
    assert [one for one in KINDS if shape(one).fullmatch(reply.error.reason)]
    assert MARKER.encode() not in message_to_proto(reply).SerializeToString()


def test_a_panic_of_a_library_is_answered_too() -> None:
    class Panic(BaseException):  # as those of libraries written in Rust
        pass

    app = NodeApp()

    @app.train()
    def panic(message: Message, context: Context) -> Message:
        raise Panic(MARKER)

    reply = app(_question(), Context(1, 1, {}, RecordDict(), {}))
    assert shape("unexpected").fullmatch(reply.error.reason)


@given(st.text(), st.sampled_from(RAISED))
def test_a_simulated_node_says_everything_in_one_line(text: str, kind: type[Exception]) -> None:
    with simulated_in_process():
        reason = error_reply(kind(f"{MARKER}\n{text}"), _question()).error.reason
    assert MARKER in reason
    assert reason.startswith(kind.__name__)
    assert reason.isprintable()


def test_the_innermost_kind_is_kept_and_the_exception_stays_what_it_is() -> None:
    with pytest.raises(KeyError) as caught, during("rows"), during("picture"):
        raise KeyError(MARKER)
    assert faults.noted(caught.value).kind == "picture"
    with pytest.raises(FaultError) as caught, during("rows"):
        raise FaultError("no_rows")
    assert faults.noted(caught.value).kind == "no_rows"


@given(st.text(), st.sampled_from(sorted(KINDS)))
def test_a_fact_is_printable_and_short_and_a_fault_survives_pickling(text: str, kind: str) -> None:
    names = {name for _, name, _, _ in string.Formatter().parse(KINDS[kind]) if name}
    error = FaultError(kind, "whole", **dict.fromkeys(names, text * 100))
    assert error.said.isprintable()
    assert len(error.said) < 300 + 250 * len(names)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.kind, again.said, str(again)) == (kind, error.said, "whole")
    assert type(pickle.loads(pickle.dumps(WireError("x", kind="other_codec")))) is WireError  # noqa: S301


def test_what_fails_around_the_app_is_no_text_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes one reply of an exception of its own, with its text: from this name."""
    source = Path(run_clientapp.__file__).read_text()
    assert source.count("Error(code=") == 1
    monkeypatch.setattr(run_clientapp, "Error", run_clientapp.Error)
    executor.hide_exception_texts()
    made = run_clientapp.Error(code=1, reason=f"No such file: /srv/{MARKER}")
    assert (made.code, made.reason) == (1, FaultError("unexpected").said)
    try:
        with during("bundle"):
            bundle.check(MARKER.encode(), executor.OURS)
    except bundle.BundleError as error:
        made = run_clientapp.Error(code=1, reason=f"{error}: {MARKER}")
    assert made.reason == FaultError("bundle").said


def test_honest_replies_hold_numbers_alone(node: Node) -> None:
    path = node.rows(ROWS)
    signs = "adapter=lora_sb strategy=fed_sb adapter.init=client_mean"
    node.ask("query", TEXTS, path)
    node.ask("query", f"{TEXTS} {PRIVATE}", path)
    node.train(TEXTS, path)
    node.train(f"{TEXTS} {PRIVATE}", path)
    node.train(f"{TEXTS} {SCORES}", path, action="evaluate")
    node.ask(f"query.{SETUP}", f"{TEXTS} {signs}", path)
    for sent, reply in zip(node.sent, node.replies, strict=True):
        assert not reply.has_error(), reply.error
        assert MARKER.encode() not in sent
        assert str(node.folder.parent).encode() not in sent
        assert {*reply.content} <= {"node", ARRAYS, BARE, "metrics", SPENT}
        for name, record in reply.content.config_records.items():
            if name == BARE:
                assert [type(x) for x in record.values()] == [bytes]
                continue
            values = [x for v in record.values() for x in (v if isinstance(v, list) else [v])]
            assert all(isinstance(value, int | float) for value in values)
        for record in reply.content.array_records.values():
            assert [*record] == [FRAME]
