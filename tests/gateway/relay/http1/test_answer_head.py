"""Answer heads of slices are judged like requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Fault
from gateway.limits import Limits
from gateway.relay.http1.answer_head import UNTIL_CLOSE, AnswerHead, judge_answer
from gateway.relay.http1.grammar import CHUNKED
from tests.gateway.relay.http1.corpus import BAD_ANSWERS
from tests.gateway.relay.http1.llhttp import Answer

LIMITS = Limits()


def answer(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def accepted(raw: bytes) -> AnswerHead:
    head = judge_answer(raw, LIMITS)
    assert isinstance(head, AnswerHead), head
    return head


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_bad_answer_is_not_relayed(name):
    fault = judge_answer(BAD_ANSWERS[name], LIMITS)
    assert isinstance(fault, Fault)
    assert fault.code == "bad_answer"


def test_tritons_answer_passes_as_the_bytes_that_came():
    raw = answer(b"Content-Type: application/json", b"Content-Length: 136")
    head = accepted(raw)
    assert head.for_client is raw
    assert (head.plain, head.length, head.status, head.keep_alive) == (True, 136, 200, True)


def test_connection_belongs_to_the_slices_side_only():
    head = accepted(answer(b"Connection: close", b"Content-Length: 1"))
    assert head.for_client == answer(b"Content-Length: 1")
    assert not head.keep_alive
    assert not head.plain


def test_the_head_takes_the_form_that_its_client_needs():
    head = accepted(answer(b"Transfer-Encoding: chunked", b"A: 1"))
    assert head.length == CHUNKED
    assert head.for_client == answer(b"A: 1", b"Transfer-Encoding: chunked")
    assert head.form(False, False) == answer(
        b"A: 1", b"Transfer-Encoding: chunked", b"Connection: close"
    )
    assert head.form(True, False) == answer(b"A: 1", b"Connection: close")
    fixed = accepted(answer(b"Content-Length: 3"))
    assert fixed.form(True, True) == answer(b"Content-Length: 3", b"Connection: keep-alive")


def test_an_answer_without_length_ends_with_its_connection():
    head = accepted(answer(b"A: 1"))
    assert head.length == UNTIL_CLOSE
    assert not head.keep_alive


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"100 Continue"])
def test_some_statuses_have_no_body(status):
    head = accepted(answer(status=b"HTTP/1.1 " + status))
    assert head.length == 0
    assert accepted(answer(b"Content-Length: 5", status=b"HTTP/1.1 304 x")).length == 0


def test_http_1_0_answers_close_unless_they_say_otherwise():
    assert not accepted(answer(b"Content-Length: 0", status=b"HTTP/1.0 200 OK")).keep_alive
    kept = accepted(
        answer(b"Content-Length: 0", b"Connection: Keep-Alive", status=b"HTTP/1.0 200 OK")
    )
    assert kept.keep_alive
    assert kept.for_client == answer(b"Content-Length: 0")


LINES = st.lists(
    st.sampled_from(
        [b"A: 1", b"Content-Length: 3", b"Connection: close", b"Transfer-Encoding: chunked",
         b"X:\xff", b"Connection: keep-alive", b"Content-Length: 0", b"Bad", b"X: \x01", b": a"]
    ),
    max_size=5,
)  # fmt: skip


@given(LINES, st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 ", b"HTTP/1.1 404 a b", b"H"]))
def test_what_we_accept_llhttp_accepts_with_the_same_meaning(lines, status):
    raw = answer(*lines, status=status)
    head = judge_answer(raw, LIMITS)
    if isinstance(head, Fault):
        return
    body = b"0\r\n\r\n" if head.length == CHUNKED else b"x" * max(0, head.length)
    theirs = Answer(raw + body)
    assert theirs.status == head.status
    assert theirs.complete == (0 if head.length == UNTIL_CLOSE else 1)
    assert Answer(head.for_client + body).body == theirs.body or head.length == UNTIL_CLOSE


@given(st.binary(max_size=100))
def test_no_bytes_raise(data):
    assert isinstance(judge_answer(data + b"\r\n\r\n", LIMITS), AnswerHead | Fault)
