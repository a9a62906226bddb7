"""
The Docker runtime: one container per slice.

    runtime    keeps launcher/runtime.py's protocol
    server     one container over its life, followed by a thread
    spec       pure: a server and the operator's settings → what is asked of the engine
    binding    pure: by which of the engine's ways a container is given its MIG device
    engine     the only module that knows the SDK
    words      pure: what the engine refuses, as a sentence with the cure
    here       where this launcher itself runs: paths as the engine sees them
    cores      the cores near a GPU
    settings   what an operator may set
"""
