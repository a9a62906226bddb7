"""
The control plane: what changes slowly and may wait.

    plane        starts and stops all of this; what gateway.app builds
    discovery    which slices there are: configuration file, inventory file
    health       when to check whom; feeds gateway.fleet.health
    probes       one check of one slice
    choices      what the operator wants, kept across restarts
    admin        REST over aiohttp      views, exposition, openapi   what it answers, pure
    tasks        background tasks that are kept, named and never fail in silence
"""
