"""A server to make containers of."""

from contract.slice_spec import Endpoint, SliceSpec
from launcher.runtime import ServerSpec

UUID = "MIG-00000000-0000-5000-8000-000000000001"
MARKER = "mig-s0-0123456789ab_"


def server(*arguments: str, port: int = 8000, simulated: bool = False, **more: str) -> ServerSpec:
    """Return slice s0 on ports from `port` on."""
    member = SliceSpec(
        name="s0",
        http=Endpoint("127.0.0.1", port),
        grpc=Endpoint("127.0.0.1", port + 1),
        metrics=Endpoint("127.0.0.1", port + 2),
        mig_uuid=UUID,
        profile="1g.5gb",
        simulated=simulated,
    )
    return ServerSpec(member, more.pop("models", "/m"), arguments, **more)
