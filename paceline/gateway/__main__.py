"""`python -m paceline.gateway`: the gateway as a process of a cluster."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from pathlib import Path

from paceline.checkpoint.store import Store
from paceline.gateway.app import Gateway
from paceline.gateway.driver import FrontLink
from paceline.gateway.library import Library
from paceline.gateway.server import Server, listen
from paceline.gateway.settings import Settings
from paceline.gateway.texts import bring_texts
from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.descriptors import allow_descriptors
from paceline.process.exposure import API_KEY_VARIABLE, check_exposure
from paceline.process.home import Home
from paceline.process.logs import configure, get_logger
from paceline.process.runtime import control_address
from paceline.transport.control_async import AsyncControlClient
from paceline.transport.front import AsyncFrontClient
from paceline.transport.keys import KeyPair
from paceline.transport.membership import Membership
from paceline.types.control import Route
from paceline.types.errors import InvalidRequest, PacelineError
from paceline.types.facts import DriverLink, GatewayFacts
from paceline.types.ids import GatewayId, fresh_id
from paceline.types.timing import DEFAULT_TIMING, read_timing

FAILED, USED_WRONGLY = 1, 2
STOP_LOOK_S = 0.05

log = get_logger("paceline.gateway")


def main() -> int:
    options = _parser().parse_args()
    stop = threading.Event()
    watch_parent(stop.set)
    install_stop_signals(lambda _: stop.set())
    home = Home(options.home)
    gateway_id = GatewayId(fresh_id("gateway"))
    configure("gateway", gateway_id, home.log_file("gateway", "gateway"))
    settings = Settings(
        beat_s=options.timing.beat_s,
        host=options.host,
        api_key=options.api_key or os.environ.get(API_KEY_VARIABLE) or None,
        body_bytes=options.body_limit,
        request_s=options.request_timeout,
        max_connections=min(Settings().max_connections, allow_descriptors() // 2),
    )
    try:
        asyncio.run(_serve(options, home, gateway_id, settings, stop))
    except PacelineError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return USED_WRONGLY if isinstance(error, InvalidRequest) else FAILED
    return 0


async def _serve(
    options: argparse.Namespace,
    home: Home,
    gateway_id: GatewayId,
    settings: Settings,
    stop: threading.Event,
) -> None:
    check_exposure(options.host, settings.api_key)
    listener = listen(options.host, options.port, settings.write_s)
    host, port = listener.getsockname()[:2]
    keys = KeyPair.fresh()

    def dial(route: Route) -> FrontLink:
        return AsyncFrontClient(route.address, route.public_key, keys)

    def facts(streams: int, links: tuple[DriverLink, ...]) -> GatewayFacts:
        return GatewayFacts(
            gateway_id=gateway_id,
            pid=os.getpid(),
            url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
            public_key=keys.public,
            streams=streams,
            links=links,
        )

    membership = Membership.of(home)
    address = options.control or control_address(options.runtime)
    async with AsyncControlClient(address, f"gateway:{gateway_id}", membership) as control:
        store = Store(options.store or home.path)
        library = Library(store, bring_texts(store, membership.member))
        gateway = Gateway(
            control=control, dial=dial, facts=facts, library=library, settings=settings
        )
        server = Server(gateway)
        stopping = asyncio.create_task(_stop_with(server, stop))
        log.info("gateway serves", host=host, port=port)
        try:
            await server.serve([listener])
        finally:
            stopping.cancel()
            listener.close()
            library.close()


async def _stop_with(server: Server, stop: threading.Event) -> None:
    while not stop.is_set():  # noqa: ASYNC110 - signals and threads may set it at any moment
        await asyncio.sleep(STOP_LOOK_S)
    server.should_exit = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paceline.gateway", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="the home of checkpoints, if not --home")
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--control", help="the controller's address, where it is elsewhere")
    parser.add_argument("--cluster-id", required=True)
    parser.add_argument("--timing", type=read_timing, default=DEFAULT_TIMING, help="JSON")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--api-key", help=f"else {API_KEY_VARIABLE}; without one only on loopback")
    parser.add_argument("--body-limit", type=int, default=Settings().body_bytes, metavar="BYTES")
    parser.add_argument(
        "--request-timeout", type=float, default=Settings().request_s, metavar="SECONDS"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
