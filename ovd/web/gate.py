"""What the server lets in: requests of limited size, to the routes that the page needs."""

import json
import re
from typing import Any

# Gradio serves files of its cache, fetches what others name, and has tools for those who build a page: none is needed
_SHUT = re.compile(r"/(file[=/]|proxy=|stream/|custom_component/|monitoring|vibe|dev/|process_recording|deep_link|"
                   r"run-history|runs\b|download|profiling|openapi)")


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind it.
        most_bytes: Of a request's body.
    """

    def __init__(self, app: Any, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _SHUT.search(scope["path"]):
            await _refuse(send, 404, "There is nothing here.")
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or int(length) > self._most:
            await _refuse(send, 413, f"This is too large: the most is {self._most / 1e6:.0f} MB.")
            return
        left = self._most

        async def counted() -> dict:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        await self._app(scope, counted, send)


async def _refuse(send: Any, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail, "error": detail}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
