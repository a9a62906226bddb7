"""`make demo`: see tools/demo/__init__.py."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from rich.console import Console

from tools.demo import show
from tools.demo.admin import Admin, AdminError
from tools.demo.stack import Places, Stack, StackError
from tools.demo.traffic import Traffic

TOGGLED = "s3"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo", description="Seven slices, seven Tritons, one port."
    )
    parser.add_argument("--once", action="store_true", help="stop by itself; exit 1 on any failure")
    parser.add_argument("--requests", type=int, default=700, help="to send in each act (700)")
    parser.add_argument(
        "--listen", default="127.0.0.1:50050", help="the gateway's port for clients"
    )
    parser.add_argument("--admin", default="127.0.0.1:9001", help="the gateway's admin API")
    parser.add_argument("--port-base", type=int, default=8000, help="HTTP port of slice s0 (8000)")
    parser.add_argument("--run-dir", type=Path, default=Path("run/demo"), help="logs and state")
    options = parser.parse_args()
    places = Places(options.listen, options.admin, options.port_base, options.run_dir)
    return asyncio.run(_demo(places, options.requests, options.once))


async def _demo(places: Places, requests: int, once: bool) -> int:
    # Wide enough for a UUID also where there is no terminal to ask.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    stack = Stack(places)
    acts = asyncio.ensure_future(_acts(console, places, stack, requests))
    ended = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait({acts, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not acts.done():
            console.print("interrupted")
            return 130
        problems = acts.result()
        for problem in problems:
            console.print(f"PROBLEM: {problem}", style="bold red", markup=False)
        if not once:
            _invite(console, places)
            broken = asyncio.ensure_future(stack.ended())
            await asyncio.wait({ended, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                raise StackError(broken.result())
            broken.cancel()
        return 1 if problems else 0
    except (StackError, AdminError) as error:
        console.print(f"demo: {error}", style="bold red", markup=False)
        return 1
    finally:
        for task in (acts, ended):
            task.cancel()
        await asyncio.gather(acts, ended, return_exceptions=True)
        console.print("stopping the gateway and the Tritons")
        await stack.stop()


async def _acts(console: Console, places: Places, stack: Stack, requests: int) -> list[str]:
    """Start everything, send traffic, toggle a slice; return what went wrong."""
    problems: list[str] = []
    traffic = Traffic(places.listen)
    async with Admin(places.admin) as admin:
        await stack.start(admin)
        console.print(f"the gateway listens on {places.listen}, HTTP and gRPC on the same port\n")

        async def act(title: str, idle: str | None) -> None:
            before = show.counts(await admin.slices())
            result = await traffic.send(requests)
            slices = await admin.slices()
            console.print(show.table(slices, before, title))
            show.outcome(console, result)
            console.print()
            problems.extend(result.errors)
            for name, served in show.counts(slices).items():
                new = sum(served) - sum(before[name])
                if name == idle and new:
                    problems.append(f"{name} was disabled and yet served {new} requests")
                if name != idle and not new:
                    problems.append(f"{name} served no request")

        await act("All slices take part", idle=None)

        console.print(f"POST /v1/slices/{TOGGLED}/disable, while requests are under way")
        under_way = asyncio.ensure_future(traffic.send(requests // 2))
        view = await admin.order(TOGGLED, "disable")
        console.print(f"{TOGGLED} is {view['state']}, {view['in_flight']} in flight")
        problems.extend((await under_way).errors)
        await act(f"{TOGGLED} is disabled: the others take its share", idle=TOGGLED)

        console.print(f"POST /v1/slices/{TOGGLED}/enable")
        await admin.order(TOGGLED, "enable")
        await _until_ready(admin, TOGGLED)
        await act(f"{TOGGLED} is back", idle=None)
    return problems


async def _until_ready(admin: Admin, name: str) -> None:
    async with asyncio.timeout(30):
        while True:
            if any(s["name"] == name and s["state"] == "ready" for s in await admin.slices()):
                return
            await asyncio.sleep(0.05)


def _invite(console: Console, places: Places) -> None:
    console.print(
        f"""Everything stays up until Ctrl-C. Open in a browser:

  http://{places.admin}/          the slices, live
  http://{places.admin}/flowers   flowers to click on, and as much load as you like

or try, in another terminal:

  curl http://{places.listen}/v2/models/flower
  curl http://{places.admin}/v1/slices
  curl -X POST http://{places.admin}/v1/slices/s3/disable
  perf_analyzer -m flower -u {places.listen} -i grpc --concurrency-range 1:16
""",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
