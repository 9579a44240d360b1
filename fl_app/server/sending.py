"""Messages of a strategy as they are sent: coded, addressed to a node, with a row of the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fl_app.server.downlink import Coding, Downlink, length
from fl_app.server.round import Pending, record_name
from fl_app.session import Session
from fl_app.tree import Tree, same_bits, scalars
from fl_app.wire.envelope import derived, enclosed
from fl_app.wire.forms import DEFAULT, Form, named, number
from fl_app.wire.heads import QUESTION
from fl_app.wire.ledger import Kind, Transfer
from fl_app.wire.messages import CONFIG, FORM, LENGTH
from fl_app.wire.readers import PARTITION, ROUND
from fl_app.wire.records import message_bytes


@dataclass
class Sender:
    """Codes the messages of one round.

    Parameters
    ----------
    uncoded : dict
        ``id`` of a record that the strategy was shown, to the record that it is the coding of.
    sends_theta0 : bool
        See `Coded`.
    """

    session: Session
    downlink: Downlink
    server_round: int
    kind: Kind
    uncoded: dict[int, ArrayRecord]
    sends_theta0: bool = False
    _compared: dict[tuple[int, ...], bool] = field(default_factory=dict)

    def coded(self, plain: Message, node: int, addressed: dict[str, Any]) -> Pending:
        """Return a message of the strategy, to a client, as it goes to the client's node.

        A first download that every client can rebuild for itself brings no frame.

        The form is the one that the message's config names, see ``fl_app.wire.forms``.

        Parameters
        ----------
        addressed : dict
            What is said to this client alone.

        Raises
        ------
        ValueError
            If the strategy names an unknown form, or the parts are not those of the form.
        """
        here = self.session
        (config,) = plain.content.config_records.values()
        form = named(config, here.forms) if self.kind == "train" else here.plain_form
        records = plain.content.array_records
        if {*records} != {record_name(part) for part in form.down.codecs}:
            raise ValueError(
                f"the strategy sends {sorted(records)}, and form {form.name} has the parts "
                f"{sorted(form.down.codecs)}"
            )
        codings: dict[str, Coding] = {}
        for part, codec in form.down.codecs.items():
            record = records[record_name(part)]
            source = self.uncoded.get(id(record), record)
            codings[part] = self.downlink.encode(source, part, codec)
        said = {**config, **addressed, ROUND: self.server_round}
        said = {key: value for key, value in said.items() if key != FORM}
        for part in here.ragged(form.down):
            said[LENGTH] = length(records[part])
        head = {key: said.pop(key) for key in QUESTION.fields if key in said}
        rest = {CONFIG: ConfigRecord(said)} if said else {}
        start = {part: coding.decoded for part, coding in codings.items()}
        client = plain.metadata.dst_node_id
        down = Transfer(
            self.server_round,
            client,
            "down",
            "split" if here.ragged(form.down) else self.kind,
            encode_s=sum(coding.encode_s for coding in codings.values()),
        )
        to = node, plain.metadata.message_type
        group = derived(here.manifest, head.get(PARTITION))
        seed_only = Message(RecordDict({**rest}), *to, group_id=group)
        if self._is_derived(form, start):
            down.frame_bytes = len(group)
            down.message_bytes = message_bytes(seed_only)
            return Pending(client, seed_only, down, form, start)
        fields = QUESTION.write(head | number(form, here.forms))
        frame = self.downlink.frame(form, codings)
        message = Message(RecordDict({**enclosed(frame, fields), **rest}), *to)
        down.message_bytes = message_bytes(message)
        payload = sum(coding.wire.nbytes for coding in codings.values())
        count, size = sum(map(scalars, start.values())), len(fields) + len(frame)
        down.carries(form.down.whole.spec, count, payload, size, here.alias_bytes)
        saving = down.message_bytes - message_bytes(seed_only) if self._is_first else 0
        return Pending(client, message, down, form, start, saving)

    @property
    def _is_first(self) -> bool:
        return self.server_round == 1 and self.kind == "train"

    def _is_derived(self, form: Form, start: Mapping[str, Tree]) -> bool:
        """Tell whether a client, without any frame, starts from what it would decode of one."""
        if self.sends_theta0 or not self._is_first or form.name != DEFAULT:
            return False
        trees = tuple(map(id, start.values()))
        if trees not in self._compared:
            self._compared[trees] = all(
                same_bits(tree, self.session.like(part)) for part, tree in start.items()
            )
        return self._compared[trees]
