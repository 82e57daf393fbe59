"""Devices of the official USMP SDK (1.0.0, 1.1.0, 1.2.2) under remote control.

One request per line on standard input, one JSON object with `id`, `op`, `client` and the operation's own fields; one answer
per line on standard output, with the same `id`, `ok`, `ms` (how long it took) and results, or `error` (the exception's class)
and `text`. Requests run side by side; answers come as they finish. The process ends with its standard input.

| op | fields | results |
|---|---|---|
| connect | transport, host, port, psk, device (hex), timeout | session (hex) |
| send | hex, or index and size (see `payload`); timeout | |
| recv | timeout; what is not taken in time is taken by the next recv | hex |
| ping, rekey, bye | timeout | |
| close | without a farewell | |
| frames | | counts: frames read in the session so far, by type |
| stream | count, size, first, interval, connect (fields to reconnect with), timeout, give_up | sent, acked, failures, reconnects |
| stop | ends the client's stream after the message in the making | |
"""

import asyncio
import json
import sys
import time
from importlib.metadata import version

RELEASE = version("usmp")
if RELEASE in ("1.0.0", "1.1.0"):
    # On CPython 3.11 asyncio's selector transport is no subclass of the class these releases check for.
    asyncio.DatagramTransport = asyncio.selector_events._SelectorDatagramTransport

import usmp._session as session_module  # noqa: E402
from usmp import USMPClient  # noqa: E402


def payload(index, size):
    """Bytes that say which message they are, and differ at every place; the tests have the same function."""
    body = bytes((index * 131 + place * 7 + size) & 0xFF for place in range(size))
    return index.to_bytes(4, "little")[:size] + body[4:]


class Device:
    """One client object, with a reader that is never cancelled: a cancelled `recv` loses what it had."""

    def __init__(self, client):
        self.client = client
        self.counts = {}
        self.pending = None

    @property
    def session(self):
        if self.client._session is None:
            raise RuntimeError("not connected")
        return self.client._session

    def transport(self):
        session = self.session
        return getattr(session, "_transport", None) or session._reader

    def count(self, frame):
        name = frame.type_name() if callable(getattr(frame, "type_name", None)) else str(frame.type)
        self.counts[name] = self.counts.get(name, 0) + 1
        return frame

    def watch_frames(self):
        """Counts what the session reads: PONG and the like never reach the application."""
        transport = self.transport()
        if hasattr(transport, "read_frame"):
            read = transport.read_frame

            async def counted(*args, **kwargs):
                return self.count(await read(*args, **kwargs))

            transport.read_frame = counted
        else:
            WATCHED[id(transport)] = self

    async def recv(self, timeout):
        if self.pending is None:
            self.pending = asyncio.ensure_future(self.client.recv())
        done, _ = await asyncio.wait({self.pending}, timeout=timeout)
        if not done:
            raise TimeoutError(f"nothing received within {timeout} s")
        task, self.pending = self.pending, None
        return task.result()

    def close(self):
        session, self.client._session = self.client._session, None
        if self.pending is not None:
            self.pending.cancel()
            self.pending = None
        if session is not None:
            (getattr(session, "_transport", None) or session._writer).close()


WATCHED = {}
if hasattr(session_module, "read_frame"):
    # 1.0.0 reads through a function of the module.
    plain_read_frame = session_module.read_frame

    async def read_frame(reader, *args, **kwargs):
        frame = await plain_read_frame(reader, *args, **kwargs)
        device = WATCHED.get(id(reader))
        return device.count(frame) if device else frame

    session_module.read_frame = read_frame

DEVICES = {}
STOPPED = set()


async def connect(request):
    client = USMPClient(
        host=request["host"],
        port=request["port"],
        psk=bytes.fromhex(request["psk"]),
        device_id=bytes.fromhex(request["device"]),
        protocol=request["transport"],
    )
    timeout = request.get("timeout", 10)
    try:
        # 1.0.0 has no time-out of its own.
        await asyncio.wait_for(client.connect(), timeout)
    except BaseException:
        transport = getattr(client, "_transport", None)
        if transport is not None:
            transport.close()
        raise
    device = Device(client)
    device.watch_frames()
    return device


async def stream(name, request):
    """Sends messages as an application does that must get each of them through: on an error it connects again and sends the
    same message again. It connects first if it is not connected."""
    device = DEVICES.get(name)
    STOPPED.discard(name)
    first, size = request.get("first", 0), request["size"]
    deadline = time.monotonic() + request.get("give_up", 60)
    acked, failures, longest = [], {}, 0.0
    index, sent, attempts, connections = first, 0, 0, 0
    before = device is not None and device.client._session is not None
    while index < first + request["count"] and name not in STOPPED and time.monotonic() < deadline:
        started = time.monotonic()
        try:
            if device is None or device.client._session is None:
                attempts += 1
                if attempts > 1:
                    await asyncio.sleep(request.get("backoff", 0.2))
                device = DEVICES[name] = await connect(request["connect"])
                connections += 1
            sent += 1
            await asyncio.wait_for(device.client.send(payload(index, size)), request.get("timeout", 30))
        except Exception as error:
            kind = type(error).__name__
            failures[kind] = failures.get(kind, 0) + 1
            if "connect" not in request:
                break
            if device is not None:
                device.close()
            continue
        acked.append(index)
        longest = max(longest, time.monotonic() - started)
        index += 1
        if request.get("interval"):
            await asyncio.sleep(request["interval"])
    return {
        "acked": acked,
        "sent": sent,
        "failures": failures,
        "reconnects": max(0, connections - (not before)),
        "longest_ms": round(longest * 1000),
    }


async def perform(request):
    op, name = request["op"], request.get("client")
    timeout = request.get("timeout", 30)
    if op == "hello":
        return {"release": RELEASE}
    if op == "connect":
        old = DEVICES.pop(name, None)
        if old is not None:
            old.close()
        device = DEVICES[name] = await connect(request)
        return {"session": device.session._info.session_id.hex()}
    if op == "stream":
        return await stream(name, request)
    device = DEVICES[name]
    if op == "send":
        data = bytes.fromhex(request["hex"]) if "hex" in request else payload(request["index"], request["size"])
        await asyncio.wait_for(device.client.send(data), timeout)
    elif op == "recv":
        return {"hex": (await device.recv(timeout)).hex()}
    elif op == "ping":
        await asyncio.wait_for(device.client.ping(), timeout)
    elif op == "rekey":
        await asyncio.wait_for(device.session.rekey(), timeout)
    elif op == "bye":
        await asyncio.wait_for(device.client.disconnect(), timeout)
    elif op == "close":
        device.close()
    elif op == "frames":
        return {"counts": device.counts}
    elif op == "stop":
        STOPPED.add(name)
    else:
        raise ValueError(f"no operation {op!r}")
    return {}


async def answer(request):
    started = time.monotonic()
    try:
        result = {"ok": True, **await perform(request)}
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        result = {"ok": False, "error": type(error).__name__, "text": str(error)}
    result["id"] = request["id"]
    result["ms"] = round((time.monotonic() - started) * 1000)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


async def main():
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    running = set()
    while line := await requests.readline():
        task = asyncio.ensure_future(answer(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
