"""What a real message says, read and changed as a peer could."""

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from fl_app.session import Session
from fl_app.wire import envelope
from fl_app.wire.frame import pack
from fl_app.wire.heads import QUESTION, REPLY
from fl_app.wire.messages import ARRAYS, BARE, CONFIG
from fl_app.wire.readers import PARTITION, ROUND
from fl_app.wire.records import message_bytes


def said(message: Message) -> dict[str, Any]:
    """What a question for a turn says, or the reply to one: of its head, or of its group id."""
    if message.metadata.reply_to_message_id:
        return envelope.opened(message.content, REPLY)[0]
    return envelope.whom(message)


def who(message: Message) -> int | None:
    """The client that a question is for, if it names one."""
    if message.metadata.message_type in ("train", "evaluate"):
        return said(message).get(PARTITION)
    return message.content.config_records.get(CONFIG, {}).get(PARTITION)


def round_of(message: Message) -> int | None:
    """The round of a question for a turn."""
    return said(message).get(ROUND)


def frame(message: Message) -> bytes | None:
    """The frame of a message for a turn, or of the reply to one."""
    head = REPLY if message.metadata.reply_to_message_id else QUESTION
    return envelope.opened(message.content, head)[1]


def put(message: Message, frame_: bytes | None = None, drop: tuple[str, ...] = (), **values: Any):
    """Give a message another frame, or other values in its head, and return it."""
    head = REPLY if message.metadata.reply_to_message_id else QUESTION
    before, sent = envelope.opened(message.content, head)
    now = {name: value for name, value in {**before, **values}.items() if name not in drop}
    rest = {name: x for name, x in message.content.items() if name not in (BARE, ARRAYS)}
    sent = sent if frame_ is None else frame_
    message.content = RecordDict({**envelope.enclosed(sent, head.write(now)), **rest})
    return message


def framed(message: Message, here: Session, **values: Any) -> Message:
    """A question for a turn as one that brings theta0, with other values in its head."""
    frame_ = frame(message) if BARE in message.content else None
    if frame_ is None:
        wire, _ = here.down.encode(here.theta0, here.down.init(here.theta0), here.theta0)
        frame_ = pack(wire, here.down, here.manifest)
    head = QUESTION.write({**said(message), **values})
    rest = {name: x for name, x in message.content.items() if name not in (BARE, ARRAYS)}
    content = RecordDict({**envelope.enclosed(frame_, head), **rest})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def silent(message: Message) -> Message:
    """Take the frame out of a reply."""
    kept = envelope.enclosed(None, REPLY.write(said(message)))
    rest = {name: x for name, x in message.content.items() if name not in (BARE, ARRAYS)}
    message.content = RecordDict({**kept, **rest})
    return message


def config(message: Message) -> ConfigRecord:
    """What else a question says."""
    return message.content.config_records.get(CONFIG, ConfigRecord())


def least(size: int, is_reply: bool) -> int:
    """What Flower makes of ``size`` bytes in a message: one record of one value, without names."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1
    content = RecordDict({"": ConfigRecord({"": bytes(size)})})
    message = Message(content, 2, "train")
    if is_reply:
        message.metadata.__dict__["_message_id"] = "0" * 64
        message = Message(content, reply_to=message)
    return message_bytes(message)
