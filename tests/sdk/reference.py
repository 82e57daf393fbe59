"""The SDK's own server, answering each message with its bytes reversed: it shows that driver.py works before anything of
ours is asked. Arguments: tcp|udp, port, key in hex. Prints `serving` once it is about to listen."""

import asyncio
import sys
from importlib.metadata import version

if version("usmp") in ("1.0.0", "1.1.0"):
    # As in driver.py.
    asyncio.DatagramTransport = asyncio.selector_events._SelectorDatagramTransport

from usmp import USMPServer  # noqa: E402

transport, port, psk = sys.argv[1:]
server = USMPServer(host="127.0.0.1", port=int(port), psk=bytes.fromhex(psk), protocol=transport)


@server.on_session
async def handle(session):
    while True:
        await session.send((await session.recv())[::-1])


print("serving", flush=True)
asyncio.run(server.serve())
