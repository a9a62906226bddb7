"""Limits and timeouts that change while clients are connected."""

from gateway.limits import MIB, Limits, Timeouts
from gateway.relay.slabs import SLAB_BYTES
from tests.gateway.relay.http1.stage import INFER, OK, Stage, took
from tests.support.wire import FakeTransport


def configure(stage: Stage, limits: Limits | None = None, timeouts: Timeouts | None = None) -> None:
    stage.core.configure(limits or Limits(), timeouts or Timeouts())
    stage.stocks.shared.configure()


def answered(stage: Stage, client: FakeTransport) -> bytes:
    """Send a request, let the slice answer where it was asked, and return what the client got."""
    client.sends(INFER)
    stage.run()
    for connections in stage.connections.values():
        if took(connections[-1]):
            connections[-1].sends(OK)
    return took(client)


def test_a_head_that_was_judged_by_other_limits_is_judged_anew():
    """Clients send the same head again and again, and its judgement is remembered."""
    stage = Stage()
    client = stage.client()
    assert answered(stage, client).startswith(b"HTTP/1.1 200 ")
    assert answered(stage, client).startswith(b"HTTP/1.1 200 ")
    configure(stage, Limits(body_bytes=3))
    assert answered(stage, client).startswith(b"HTTP/1.1 413 ")


def test_an_open_connection_follows_new_timeouts_with_its_next_request():
    stage = Stage()
    client = stage.client()
    answered(stage, client)
    configure(stage, timeouts=Timeouts(idle_s=5.0, connect_s=0.5))
    assert stage.dialer.timeout_s == 0.5
    answered(stage, client)
    stage.pass_time(4)
    assert not client.closed
    stage.pass_time(2)
    assert client.closed


def test_a_timeout_of_0_is_off_after_a_reload_as_well():
    stage = Stage()
    client = stage.client()
    configure(stage, timeouts=Timeouts(idle_s=0.0))
    answered(stage, client)
    stage.pass_time(500)
    assert not client.closed


def test_less_memory_for_slabs_is_kept_to():
    stage = Stage()
    slabs = stage.core.slabs
    held = []
    while not slabs.copying and slabs.held_bytes < 16 * MIB:
        held.append(slabs.received(len(slabs.room())))
    stage.core.configure(Limits(buffered_bytes=1 * MIB), Timeouts())
    before = slabs.held_bytes
    for _ in range(8):
        held.append(slabs.received(len(slabs.room())))
    assert slabs.held_bytes <= before
    assert slabs.copying
    held.clear()
    assert slabs.held_bytes >= 2 * SLAB_BYTES
