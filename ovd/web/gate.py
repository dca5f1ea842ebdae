"""What the server lets in: requests of limited size, to routes that the page needs, that name no files but uploads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Gradio serves files of its cache, fetches what others name, and has tools for those who build a page: none is needed
_SHUT = re.compile(r"/(file[=/]|proxy=|stream/|custom_component/|monitoring|vibe|dev/|process_recording|deep_link|"
                   r"run-history|runs\b|download|profiling|openapi)")
_UPLOAD = re.compile(r"(/gradio_api)?/upload/?")  # and not an event of that name
_SPARE = 1_000_000  # bytes of a request that is no upload, and of an upload beside its file


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind it.
        file_bytes: Of an uploaded file.
        uploads: The folder of uploads. Gradio copies whatever file a request names unless it was started by its own
            ``launch``, so a request that names another one does not get that far.
        names: What the server may be called by, None for anything: pages from elsewhere give this machine's address
            names of their own, to read what it answers.
    """

    def __init__(self, app: Any, file_bytes: int, uploads: str | Path, names: frozenset[str] | None = None) -> None:
        self._names = names
        self._app, self._file_bytes, self._uploads = app, file_bytes, Path(uploads).resolve()

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        called = headers.get(b"host", b"").decode("latin-1")
        if self._names is not None and re.sub(r":\d+$", "", called).lower() not in self._names:
            await _refuse(send, 403, "Start ovd serve with --host to reach it by another name.")
            return
        path = re.sub(r"/+", "/", scope["path"])
        if _SHUT.search(path):
            await _refuse(send, 404, "There is nothing here.")
            return
        uploaded = _UPLOAD.fullmatch(path) is not None
        most = self._file_bytes * uploaded + _SPARE
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            await _refuse(send, 413, f"This is too large: the most is {most / 1e6:.3g} MB.")
        elif uploaded or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, _counted(receive, most), send)
        else:
            await self._read(scope, receive, send, most)

    async def _read(self, scope: dict, receive: Any, send: Any, most: int) -> None:
        """Read a request to its end before it is passed on."""
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > most:
                await _refuse(send, 413, f"This is too large: the most is {most / 1e6:.3g} MB.")
                return
            if not message.get("more_body"):
                break
        try:
            named = list(_named(json.loads(body))) if body.strip() else []
        except (ValueError, RecursionError):
            await _refuse(send, 400, "This is not json.")
            return
        if not all(map(self._is_upload, named)):
            await _refuse(send, 400, "Only uploaded pictures are read.")
            return
        whole: list[dict] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> dict:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    def _is_upload(self, name: Any) -> bool:
        """Whether something that is named is a file among the uploads: no address, no link to elsewhere."""
        try:
            return isinstance(name, str) and Path(name).resolve().is_relative_to(self._uploads)
        except (OSError, ValueError, RuntimeError):
            return False


def _named(value: Any) -> Iterator[Any]:
    """The paths and addresses of files, wherever in json they are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner is not None and (key == "path" or (key == "url" and "path" not in value)):
                yield inner
            else:
                yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def _counted(receive: Any, most: int) -> Any:
    left = most

    async def counted() -> dict:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return counted


async def _refuse(send: Any, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail, "error": detail}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
