"""A gateway in front of three Tritons that a test may stop and start as it likes."""

import http.client
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.api import SERVICE
from tests.e2e.stack import Stack, free_ports, wait_until
from tests.support.tritons import RealTriton

NAMES = ("s0", "s1", "s2")
TRITON_WITHIN_S = 90.0


class Three(Stack):
    """
    The system, without a launcher: a Triton that is killed stays dead until it is started.

    Attributes:
        tritons: By slice name.
        models: Loaded by each of them at its start.
    """

    def __init__(
        self, folder: Path, repositories: Sequence[Path], models: Sequence[str], **config: Any
    ) -> None:
        self.folder = folder
        self.address, self.admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.tritons = {name: RealTriton(name, folder, repositories, models) for name in NAMES}
        self.config = {
            "listen": self.address,
            "admin": {"listen": self.admin},
            "slices": [
                {
                    "name": name, "http": str(triton.spec.http), "grpc": str(triton.spec.grpc),
                    "metrics": str(triton.spec.metrics),
                }
                for name, triton in self.tritons.items()
            ],
            "state_file": str(folder / "gateway-state.json"),
            "health": {"interval": 0.3, "down_interval": 0.3, "fast_interval": 0.2, "timeout": 2.0},
            **config,
        }  # fmt: skip
        self.launcher = None
        self.gateway: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        for triton in self.tritons.values():
            triton.start()
        self.start_gateway()
        self.wait_ready()

    def stop(self) -> None:
        super().stop()
        for triton in self.tritons.values():
            triton.kill()

    def wait_ready(self) -> None:
        """Wait until all three take traffic."""

        def all_ready() -> bool:
            assert self.gateway is not None
            assert self.gateway.poll() is None, self.log("gateway")
            return set(self.states().values()) == {"ready"}

        wait_until(all_ready, "all three are ready", TRITON_WITHIN_S)

    def repair(self) -> None:
        """Bring all three back into service, whatever a test has done to them."""
        for name, triton in self.tritons.items():
            if not triton.is_running:
                triton.start()
            self.ask("POST", f"/v1/slices/{name}/enable")
        self.wait_ready()

    def kill(self, name: str) -> None:
        self.tritons[name].kill()
        wait_until(lambda: self.states()[name] != "ready", f"{name} is found to be dead")

    def disable(self, name: str) -> None:
        assert self.ask("POST", f"/v1/slices/{name}/disable?wait=10s")[0] == 200


def started(triton: RealTriton) -> RealTriton:
    """Start a Triton that stands alone; return it when it is live."""
    triton.start()
    triton.wait_live()
    return triton


@dataclass(frozen=True)
class HttpSaid:
    """An answer; `kind` is its Content-Type."""

    status: int
    kind: str
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class GrpcSaid:
    """An answer; `message` is None when `code` is not OK."""

    code: grpc.StatusCode
    details: str
    message: Any


def ask_http(
    address: object, method: str, target: str, body: object = None, **headers: str
) -> HttpSaid:
    """Ask on a connection of its own; `body` is JSON, or bytes as they are."""
    host, _, port = str(address).rpartition(":")
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, target, data or None, headers)
        answer = connection.getresponse()
        return HttpSaid(answer.status, answer.headers.get("Content-Type", ""), answer.read())
    finally:
        connection.close()


def ask_grpc(address: object, rpc: str, request: Any = None, **options: Any) -> GrpcSaid:
    """Call a unary RPC of Triton's on a connection of its own."""
    with grpc.insecure_channel(
        str(address), options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        call = channel.unary_unary(
            SERVICE.decode() + rpc,
            request_serializer=type(request).SerializeToString if request is not None else None,
            response_deserializer=getattr(pb, f"{rpc}Response").FromString,
        )
        try:
            return GrpcSaid(
                grpc.StatusCode.OK, "",
                call(b"" if request is None else request, timeout=60, **options),
            )  # fmt: skip
        except grpc.RpcError as error:
            return GrpcSaid(error.code(), error.details(), None)


@dataclass
class Phase:
    """
    The system as a test finds it.

    Attributes:
        out: The slice that is out of service; "" when all are in.
        dead: `out` is not only disabled: its Triton is gone.
    """

    three: Three
    out: str
    dead: bool

    @property
    def serving(self) -> list[RealTriton]:
        """Those in service."""
        return [triton for name, triton in self.three.tritons.items() if name != self.out]

    @property
    def bystander(self) -> RealTriton | None:
        """The Triton that runs and is out of service: nothing must reach it."""
        return self.three.tritons[self.out] if self.out and not self.dead else None

    def http(self, method: str, target: str, body: object = None, **headers: str) -> HttpSaid:
        """Ask the gateway."""
        return ask_http(self.three.address, method, target, body, **headers)

    def grpc(self, rpc: str, request: Any) -> GrpcSaid:
        """Ask the gateway."""
        return ask_grpc(self.three.address, rpc, request)

    def of_each(self, method: str, target: str) -> list[HttpSaid]:
        """Ask every Triton in service itself."""
        return [ask_http(triton.spec.http, method, target) for triton in self.serving]


PHASES = {"all_up": ("", False), "one_disabled": ("s1", False), "one_dead": ("s2", True)}


def enter(three: Three, name: str) -> Phase:
    """Bring the system, with all slices up, into the phase of that name."""
    out, dead = PHASES[name]
    if out:
        (three.kill if dead else three.disable)(out)
    return Phase(three, out, dead)
