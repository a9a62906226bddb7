"""
The HTTP/1.1 relay.

    grammar      sans-I/O: header fields, judged strictly
    head         sans-I/O: request heads: bytes → RequestHead or Fault
    answer_head  sans-I/O: the same for the slices' answers
    memo         outcomes remembered by the exact bytes they came from
    body         sans-I/O: chunked bodies, bounded
    shared       what all connections share
    downstream   the client's side: one request at a time
    exchange     what a request needs beyond the usual: other slices, faults, closing
    hedging      a second attempt on another slice, while the first is late
    upstream     the slice's side: one answer at a time
    stock        the connections to one slice, idle and busy, and who waits for one
"""
