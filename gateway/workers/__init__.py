"""
The gateway's processes: one with both planes, or a main process and several workers.

`data_plane` is everything that serves clients; the main process of `workers: 1` has one of its own.
With more, `supervisor` keeps that many processes of `worker` running, each with a data plane:

    main     control plane, listening sockets ─┬─ accept these, this is the fleet ─►  worker
             fleet totals                     ◄┴─ outcomes, totals, idle ───────────  data plane

What is in flight stands in `table`, memory that all of them share. `takeover` replaces the whole
gateway by a newer one on the same sockets.
"""
