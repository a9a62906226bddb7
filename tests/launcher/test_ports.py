"""Ports are asked before anything is made."""

import os
import socket

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher.errors import StartError
from launcher.ports import check_free


def member(base, host="127.0.0.1", name="s0"):
    ends = [Endpoint(host, base + i) for i in range(3)]
    return SliceSpec(name=name, http=ends[0], grpc=ends[1], metrics=ends[2])


def test_free_ports_are_left_free(port_base):
    check_free([member(port_base)])
    check_free([member(port_base)])


def test_a_taken_port_is_named_with_its_purpose_and_holder(port_base):
    with (
        socket.create_server(("127.0.0.1", port_base + 2)),
        pytest.raises(StartError) as caught,
    ):
        check_free([member(port_base)])
    assert f"port {port_base + 2} (metrics of s0) is taken by" in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)


def test_several_taken_ports_are_counted(port_base):
    with (
        socket.create_server(("127.0.0.1", port_base)),
        socket.create_server(("127.0.0.1", port_base + 11)),
        pytest.raises(StartError, match=r"HTTP of s0.*and 1 more port too"),
    ):
        check_free([member(port_base), member(port_base + 10, name="s1")])


def test_a_host_that_is_not_ours_is_told(port_base):
    with pytest.raises(StartError, match=r"cannot be listened on"):
        check_free([member(port_base, host="192.0.2.1")])
    with pytest.raises(StartError, match=r"host 'no.such.host.invalid' cannot be listened on"):
        check_free([member(port_base, host="no.such.host.invalid")])
