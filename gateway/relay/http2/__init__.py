"""
The HTTP/2 relay: gRPC frames from clients to slices and back.

    frames       sans-I/O: 9-byte frame heads and the small frames, in and out
    headers      sans-I/O: header blocks, judged once and remembered
    budget       sans-I/O: what a peer may make us do for nothing
    closed_streams  sans-I/O: tells a client's late frames from mistakes
    runs         sans-I/O: DATA frames that are forwarded as they lie in memory
    own_answers  what the gateway answers by itself
    call         one call: a stream of a client joined to a stream of a slice
    half         the slice's half of it
    reading      which memory, and whose turn
    connection   what both sides do: framing, settings, pings, windows, writing once a turn
    replaying    calls that their slice does not answer
    hedging      a second attempt on another slice, while the first is late
    downstream   the client's side
    upstream     the slice's side
    links        the connections to each slice
"""
