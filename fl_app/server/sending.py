"""Messages of a strategy as they are sent: coded, addressed to a node, with a row of the ledger."""

from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fl_app.server.downlink import Coding, Downlink
from fl_app.server.round import Pending, record_name
from fl_app.session import Session
from fl_app.tree import scalars
from fl_app.wire.forms import named
from fl_app.wire.ledger import Kind, Transfer
from fl_app.wire.messages import ARRAYS
from fl_app.wire.records import message_bytes, pack_record


@dataclass
class Sender:
    """Codes the messages of one round.

    Parameters
    ----------
    uncoded : dict
        ``id`` of a record that the strategy was shown, to the record that it is the coding of.
    """

    session: Session
    downlink: Downlink
    server_round: int
    kind: Kind
    uncoded: dict[int, ArrayRecord]

    def coded(self, plain: Message, node: int, addressed: dict[str, Any]) -> Pending:
        """Return a message of the strategy, to a client, as it goes to the client's node.

        The form is the one that the message's config names, see ``fl_app.wire.forms``.

        Parameters
        ----------
        addressed : dict
            What the config says to this client alone.

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
        frame = self.downlink.frame(form, codings)
        said = ConfigRecord({**config, **addressed})
        content = RecordDict({ARRAYS: pack_record(frame), "config": said})
        message = Message(content, node, plain.metadata.message_type)
        start = {part: coding.decoded for part, coding in codings.items()}
        payload = sum(coding.wire.nbytes for coding in codings.values())
        down = Transfer(
            self.server_round,
            plain.metadata.dst_node_id,
            "down",
            self.kind,
            message_bytes=message_bytes(message),
            encode_s=sum(coding.encode_s for coding in codings.values()),
        )
        count = sum(map(scalars, start.values()))
        down.carries(form.down.whole.spec, count, payload, len(frame), here.alias_bytes)
        return Pending(message, down, form, start)
