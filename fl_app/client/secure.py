"""The ClientApp's half of secure aggregation: three queries, and a mod around training.

A client's secrets are kept in its node's ``Context.state`` between the stages of a round, and no
longer: the next round begins with new ones, and after the last stage there are none. That a stage
of a round was answered is kept on disk (``fl_app.client.answered``): two messages that come at once
would each find the secrets as they were before.
"""

from typing import cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl_app.build import open_session
from fl_app.client.answered import once
from fl_app.client.patches import patched
from fl_app.codecs import Wire
from fl_app.codecs.modular import ring
from fl_app.codecs.streams import words
from fl_app.config.aliases import overrides_of
from fl_app.secure_aggregation.member import Member, ProtocolError
from fl_app.secure_aggregation.settings import Settings, is_on, settings
from fl_app.wire import readers
from fl_app.wire.envelope import enclosed, opened, whom
from fl_app.wire.frame import pack, unpack
from fl_app.wire.heads import REPLY
from fl_app.wire.messages import (
    BARE,
    CONFIG,
    EXAMPLES,
    SEALED,
    SECURE_KEYS,
    SECURE_REVEAL,
    SECURE_SHARES,
    SENDERS,
    TRAIN_METRICS,
)
from fl_app.wire.readers import Said


def keys(message: Message, context: Context) -> Message:
    """Begin a round with new keys, and send the public ones.

    Raises
    ------
    FaultError
        If the configuration asks for no sum, or the client has sent keys of this round.
    """
    _settings(context)
    member = Member(*_who(readers.record(message), context))
    _once(member, context, SECURE_KEYS)
    mask, share = member.publics()
    _keep(member, context)
    return _answer(message, ConfigRecord({"mask-public": mask, "share-public": share}))


def shares(message: Message, context: Context) -> Message:
    """Send shares of this client's secrets, sealed for the other members of its group.

    Raises
    ------
    FaultError
        See `Member.share`, and if the client has shared in this round.
    """
    config, member = _recall(message, context)
    sealed = member.share(
        cast(list[int], config["members"]),
        cast(list[bytes], config["mask-publics"]),
        cast(list[bytes], config["share-publics"]),
        _settings(context),
    )
    _once(member, context, SECURE_SHARES)
    _keep(member, context)
    return _answer(message, ConfigRecord({"sealed": list(sealed.values())}))


def reveal(message: Message, context: Context) -> Message:
    """Send shares of the others' secrets, and forget everything.

    Raises
    ------
    FaultError
        See `Member.reveal`, and if the client has revealed in this round.
    """
    config, member = _recall(message, context)
    seeds, others = member.reveal(
        cast(list[int], config["survivors"]),
        cast(list[int], config["dropped"]),
        _settings(context),
    )
    _once(member, context, SECURE_REVEAL)
    del context.state[_key(member.client)]
    return _answer(message, ConfigRecord({"seed-shares": seeds, "key-shares": others}))


def masked(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Mask what the client sends, around `coded`; without secure aggregation do nothing.

    The integers are multiplied by the client's weight. Metrics stay with the client.

    Raises
    ------
    FaultError
        See `Member.hold`, and if the client has answered with a vector in this round.
    """
    here = open_session(overrides_of(context.run_config))
    if not is_on(here.cfg):
        return call_next(message, context)
    config, member = _recall(message, context, whom(message))
    senders = cast(list[int], config[SENDERS])
    sealed = cast(list[bytes], config[SEALED])
    member.hold(dict(zip(senders, sealed, strict=True)), _settings(context))
    _once(member, context, "secure_update")
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    here, added = patched(context), ring(here.up.spec)
    said, sent = opened(reply.content, REPLY)
    assert sent is not None
    (section,) = unpack(sent, here.up, here.manifest).sections
    vector = words.unpack(section, added.bits, added.count(here.theta0))
    weight = min(said[EXAMPLES], added.max_weight)
    vector = added.weighted(vector, weight)
    member.mask(vector)
    _keep(member, context)
    sum_part = Wire((words.pack(vector & added.mask, added.bits),))
    frame = pack(sum_part, here.up, here.manifest)
    kept = {name: value for name, value in said.items() if name not in TRAIN_METRICS}
    spent = {name: x for name, x in reply.content.config_records.items() if name != BARE}
    reply.content = RecordDict({**enclosed(frame, REPLY.write(kept)), **spent})
    return reply


def _settings(context: Context) -> Settings:
    cfg = open_session(overrides_of(context.run_config)).cfg
    if not is_on(cfg):
        raise ProtocolError("the configuration asks for no secure aggregation")
    return settings(cfg)


def _who(said: Said, context: Context) -> tuple[int, int]:
    """Return client and round of a question; WireError if they are none of the run."""
    return readers.turn(said, open_session(overrides_of(context.run_config)).cfg)


def _recall(
    message: Message, context: Context, head: "Said | None" = None
) -> tuple[ConfigRecord, Member]:
    """Return what the message says, and the client's half of its round.

    Parameters
    ----------
    head : mapping or None
        What a message for training says of client and round; a query says it in its record.
    """
    config = readers.record(message)
    client, server_round = _who(config if head is None else head, context)
    record = context.state.config_records.get(_key(client))
    member = None if record is None else Member.read(record)
    if member is None or member.server_round != server_round:
        raise ProtocolError(f"client {client} has no secrets of round {server_round}")
    return config, member


def _once(member: Member, context: Context, stage: str) -> None:
    once(context, f"{stage} of client {member.client} in round {member.server_round}")


def _keep(member: Member, context: Context) -> None:
    context.state[_key(member.client)] = member.record()


def _key(client: int) -> str:
    return f"secure.{client}"


def _answer(message: Message, record: ConfigRecord) -> Message:
    return Message(RecordDict({CONFIG: record}), reply_to=message)
