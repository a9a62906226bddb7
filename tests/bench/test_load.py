"""What wrk, h2load and nghttp print, as captured from wrk 4.1.0 and nghttp2 1.52.0."""

import pytest

from bench import cells, load
from bench.processes import BenchError

WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:20000/v2/models/m/infer
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   420.16us  512.27us  11.29ms   95.04%
    Req/Sec    40.14k     4.87k   48.09k    65.00%
  79882 requests in 2.00s, 13.33MB read
  Non-2xx or 3xx responses: 3
Requests/sec:  39915.51
Transfer/sec:      6.66MB
RESULT {"requests": 79882, "errors": 3, "duration_us": 2001277, "p50_us": 384, "p99_us": 1650}
"""

H2LOAD_OUTPUT = """\
starting benchmark...
spawning thread #0: 8 total client(s). Timing-based test with 0s of warm-up time and 2s of main \
duration for measurements.
Main benchmark duration is started for all threads. Stopping all clients.
Stopped all clients for thread #0

finished in 2.00s, 21164.00 req/s, 3.21MB/s
requests: 42328 total, 42360 started, 42328 done, 42328 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 42331 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 6.42MB (6730152) total, 165.34KB (169312) headers (space savings 92.31%), 4.16MB data
"""

NGHTTP_OUTPUT = (
    "[  0.001] \x1b[36mrecv \x1b[0mSETTINGS frame <length=6, flags=0x00, stream_id=0>\n"
    "[  0.002] recv (stream_id=13) \x1b[33m:status\x1b[0m: 200\n"
    "[  0.002] recv (stream_id=13) content-type: application/grpc\n"
    "[  0.003] recv (stream_id=13) grpc-status: 0\n"
)


def test_the_result_line_of_our_script_is_read_from_what_wrk_prints():
    assert load.parse_wrk(WRK_OUTPUT) == load.LoadResult(
        requests=79882, errors=3, duration_s=2.001277, p50_us=384, p99_us=1650
    )


def test_wrk_without_a_result_line_is_an_error_that_shows_its_output():
    with pytest.raises(BenchError, match="unable to connect"):
        load.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_requests_and_latencies_of_h2load_come_from_its_log():
    log = [f"1700000000000000\t200\t{time_us}\n" for time_us in range(1, 101)]
    found = load.parse_h2load(H2LOAD_OUTPUT, log, 2.0)
    assert found == load.LoadResult(requests=100, errors=0, duration_s=2.0, p50_us=51, p99_us=100)


def test_answers_other_than_2xx_and_lost_streams_are_errors():
    log = ["1\t200\t10\n", "1\t503\t20\n", "1\t-1\t30\n"]
    found = load.parse_h2load(H2LOAD_OUTPUT, log, 2.0)
    assert (found.requests, found.errors, found.p99_us) == (3, 2, 10)


def test_h2load_without_a_summary_is_an_error():
    with pytest.raises(BenchError, match="no status codes"):
        load.parse_h2load("starting benchmark...\n", [], 2.0)


@pytest.mark.parametrize(
    ("ascending", "share", "expected"),
    [
        pytest.param([], 0.5, 0.0, id="nothing"),
        pytest.param([7], 0.99, 7.0, id="one"),
        pytest.param([1, 2, 3, 4], 0.5, 3.0, id="half_of_four"),
        pytest.param(list(range(1000)), 0.999, 999.0, id="last_of_a_thousand"),
    ],
)
def test_percentiles_are_values_that_were_seen(ascending, share, expected):
    assert load.percentile(ascending, share) == expected


def test_an_answer_with_status_200_and_grpc_status_0_is_right():
    assert load.grpc_complaint(NGHTTP_OUTPUT) is None


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        pytest.param(
            NGHTTP_OUTPUT.replace("grpc-status: 0", "grpc-status: 14"), "is 14", id="unavailable"
        ),
        pytest.param(
            NGHTTP_OUTPUT.replace("grpc-status: 0", "x: 0"),
            "grpc-status is missing",
            id="no_trailer",
        ),
        pytest.param(NGHTTP_OUTPUT.replace("200", "502"), "status is 502", id="bad_gateway"),
        pytest.param("", "status is missing", id="nothing"),
    ],
)
def test_any_other_answer_is_said_to_be_wrong(output, complaint):
    assert complaint in str(load.grpc_complaint(output))


def test_tools_are_asked_for_only_where_a_cell_needs_them(monkeypatch):
    monkeypatch.setattr(load.shutil, "which", lambda tool: None)
    http, grpc = cells.choose(["http-512"]), cells.choose(["grpc-512"])
    assert load.missing_tools(http) == [load.MISSING["wrk"]]
    assert load.missing_tools(grpc) == [load.MISSING["h2load"], load.MISSING["nghttp"]]
