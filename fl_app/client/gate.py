"""The one way into a node: every message passes here before anything of its run is built or read.

A mod of the whole ClientApp, so that no handler can be without it. In a simulation without a policy
it does nothing.
"""

import logging

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fl_app.client import audit, policy, rules
from fl_app.client.counts import counted, size
from fl_app.client.policy import Policy, PolicyError
from fl_app.config import compose
from fl_app.config.aliases import overrides_of
from fl_app.faults import FaultError

logger = logging.getLogger("thinwire")


def gate(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let a message through if the node's policy allows it, and log what was decided.

    Raises
    ------
    RefusedError
        If a rule forbids the run, the message or the reply.
    FaultError
        If the policy itself cannot be used.
    """
    try:
        rules_here = policy.of(context)
    except PolicyError as error:
        logger.error("%s", error)
        audit.append(context, audit.entry(message, context), audit.REFUSED, error)
        raise FaultError("policy_file") from error
    if rules_here is None:
        return call_next(message, context)
    said = audit.entry(message, context) | {"policy": rules_here.digest}
    try:
        _check(rules_here, message, context)
    except Exception as error:
        audit.append(context, said, audit.REFUSED, error)
        raise
    audit.append(context, said, audit.ACCEPTED)
    try:
        reply = call_next(message, context)
        with counted(context) as counts:
            counts.bytes += size(reply)
            counts.check(rules_here)
    except Exception as error:
        refused = isinstance(error, policy.RefusedError)
        audit.append(context, said, audit.REFUSED if refused else audit.FAILED, error)
        raise
    return reply


def _check(rules_here: Policy, message: Message, context: Context) -> None:
    """Raise if the run or the message is forbidden."""
    cfg = compose(overrides_of(context.run_config))
    rules.check_run(rules_here, context, cfg)
    rules.check_message(rules_here, message)
    _count(rules_here, message, context)


def _count(rules_here: Policy, message: Message, context: Context) -> None:
    """Count a message of an allowed run, and check that the run may have it."""
    with counted(context) as counts:
        counts.turns += rules.kind(message) in rules.TURNS
        counts.bytes += size(message)
        counts.check(rules_here)
