"""
The flower client: pictures to a model behind the gateway, some requests always outstanding.

    pictures     PNG files and pixels → the tensor that the model takes
    asking, asking_grpc   one picture through the gateway's port like any client
    addresses    where that port is
    messages     the two protobuf messages of that, by hand
    loop         keeps N requests outstanding and adds up what comes back
    session      what the page at /flowers drives: a process of its own, over its standard input
    terminal     `mig-gateway flowers`

It runs in a process of its own so that it takes nothing from the gateway's.
"""
