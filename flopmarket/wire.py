"""Messages that client, worker and coordinator all exchange, to and from their own types.

The domain packages know no protobuf; each service converts what is only its own.
"""

from __future__ import annotations

from flopmarket.errors import FlopmarketError
from flopmarket.market.order import OrderTerms
from flopmarket.trust.envelope import Envelope, Signature
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.v1 import common_pb2, job_pb2


def envelope_to_proto(envelope: Envelope) -> common_pb2.Envelope:
    """The message of an envelope; the signed bytes travel as they are."""
    return common_pb2.Envelope(
        payload=envelope.payload,
        payload_type=envelope.payload_type,
        signatures=[
            common_pb2.Signature(key_id=item.key_id_hint, signature=item.signature)
            for item in envelope.signatures
        ],
    )


def envelope_from_proto(message: common_pb2.Envelope) -> Envelope:
    """An envelope within its limits; nothing in it is verified yet.

    Raises EnvelopeError (ENVELOPE_MALFORMED) when there is none or it passes a limit.
    """
    if not message.payload_type:
        raise EnvelopeError("the message carries no envelope", code=EnvelopeCode.MALFORMED)
    envelope = Envelope(
        message.payload_type,
        message.payload,
        tuple(Signature(item.key_id, item.signature) for item in message.signatures),
    )
    try:
        envelope.to_bytes()
    except FlopmarketError as error:
        raise EnvelopeError(error.message, code=EnvelopeCode.MALFORMED) from error
    return envelope


def order_to_proto(terms: OrderTerms) -> job_pb2.Order:
    """The message of an order: in a request for a quote, and in an answer about a job."""
    asked = terms.constraints
    message = job_pb2.Order(
        kind=terms.kind.value,
        work_class=asked.work_class,
        min_flops_per_watt=asked.min_flops_per_watt,
        min_memory_bytes=asked.min_memory_bytes,
        allowed_regions=asked.allowed_regions,
        denied_regions=asked.denied_regions,
        allowed_owners=asked.allowed_owners,
        denied_owners=asked.denied_owners,
    )
    if asked.max_unit_price_nano:
        message.limit_per_pflop.nano = asked.max_unit_price_nano
    return message
