"""
The data plane: bytes from clients to slices and back, in callbacks.

    listener     looks at a connection's first bytes and hands it to http1 or http2
    http1        one request at a time: head judged once and remembered, body counted, not parsed
    http2        frames relayed with their stream ids rewritten; header blocks remembered
    router       what is asked, and so which pool answers
    core         what every connection shares: registry, limits, counters, deadlines
    dial         the only await: opening a connection to a slice
    replays      which requests are sent to a second slice, and how often
    hedges       which requests are late, and go to a second slice as well
    quarantine   requests that break slices, refused for a while
    deadlines    every timeout, on one coarse timer

No task, future, timer or log line is made for a request. docs/life-of-a-request.md walks through.
"""
