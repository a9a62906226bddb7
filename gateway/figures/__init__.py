"""
`mig-gateway figures`: throughput and latency against concurrency, for one enabled slice to all.

    points         what is measured, and what has been; a file that a later run goes on with
    load           the built-in load: a closed loop over HTTP or gRPC
    crew           that load in one process or several, and what came of it as a point
    perf_analyzer  the same by perf_analyzer, where there is one
    fleet          switches slices on and off through the admin API, and back in the end
    system         launcher, Tritons and gateway of the command's own
    drawing        PNG, and one page with all of it
    command        the command line
"""
