"""Composed calls over HTTP/2: collected whole, answered by the composer. See relay/composed.py."""

from typing import TYPE_CHECKING, cast

from gateway import errors
from gateway.relay.composed import GrpcAnswer
from gateway.relay.http2.envelope import EnvelopeError, opened
from gateway.relay.http2.stream import Chunk

if TYPE_CHECKING:
    from gateway.relay.http2.call import Call


def collect(call: "Call") -> None:
    """
    More of the call's message has come, and lies in `call.kept`.

    It is credited at once: it waits for nobody but the client, and may be larger than its window.
    """
    kept, core = call.kept, call.client.core
    assert kept is not None, "collected after it was answered"
    call.connection.credit(call, call.held)
    if call.kept_bytes > core.limits.body_bytes:
        core.counters.limit("body_bytes")
        call.fail(errors.BODY_TOO_LARGE)
    elif call.ended_in:
        _answer(call, b"".join(cast("list[Chunk]", kept)))


def _answer(call: "Call", data: bytes) -> None:
    core = call.client.core
    composer = core.composer
    assert composer is not None, "collected for nobody"
    try:
        message = opened(data, call.request.metadata)
    except EnvelopeError as error:
        call.fail(error.fault)
        return
    if len(core.composed) >= core.limits.composed_calls:
        core.counters.limit("composed_calls")
        call.fail(errors.OVERLOADED)
        return
    call.kept = [message]  # counted as before, until the answer begins
    timeout_s = max(0.001, call.deadline_s - core.deadlines.now_s) if call.deadline_s else None
    request = call.request
    answer = composer.grpc(request.path, request.metadata, message, timeout_s)
    core.composed.begin(call, answer, lambda told: _tell(call, told))


def _tell(call: "Call", answer: GrpcAnswer | None) -> None:
    if answer is None:
        call.fail(errors.COMPOSER_FAILED)
    elif answer.status:
        call.answer_status(answer.status, answer.details)
    else:
        call.answer_message(answer.message)
