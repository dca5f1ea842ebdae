"""No answer is lost between two streams of a page's events.

Gradio answers a page's events in a stream of its own, which ends when none is left. A page that sends another event
while its stream is ending takes it for open, and waits for the answer in a stream that has gone; and one that hangs up
while the server is still ending the stream has what it sent meanwhile taken away.
"""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

_PATIENCE = 2.0  # seconds for a page to hang up; one that does not is no page of Gradio's


class EventStreams:
    """ASGI middleware: a stream's last word goes out when its server is through, and until the page has taken it
    (it hangs up then), no other event of that page is confirmed.

    Args:
        app: What answers ``/queue/join`` and ``/queue/data``.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._ending: dict[str, asyncio.Event] = {}  # by session; set when the page has hung up

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass a request on."""
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path.endswith("/queue/data"):
            await self._stream(scope, receive, send)
        elif path.endswith("/queue/join"):
            await self._join(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: dict, receive: Any, send: Any) -> None:
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        last: list[dict] = []
        ending = asyncio.Event()

        async def withhold(message: dict) -> None:
            if last or _is_close(message):
                self._ending[session] = ending  # from here on events are not of this stream any more
                last.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, withhold)
            if last:
                body = b"".join(message.get("body", b"") for message in last)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if not await _hangs_up(receive):
                    await send({"type": "http.response.body", "body": b""})
        finally:
            ending.set()
            if self._ending.get(session) is ending:
                del self._ending[session]

    async def _join(self, scope: dict, receive: Any, send: Any) -> None:
        body = bytearray()

        async def heard() -> dict:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def after_the_stream(message: dict) -> None:
            if message["type"] == "http.response.start" and (ending := self._ending.get(_session(body))):
                await ending.wait()
            await send(message)

        await self._app(scope, heard, after_the_stream)


def _is_close(message: dict) -> bool:
    return message["type"] == "http.response.body" and b'"msg":"close_stream"' in message.get("body", b"")[:200]


def _session(body: bytearray) -> str:
    try:
        return str(json.loads(body).get("session_hash", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""


async def _hangs_up(receive: Any) -> bool:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(gone(), _PATIENCE)
    except asyncio.TimeoutError:
        return False
    return True
