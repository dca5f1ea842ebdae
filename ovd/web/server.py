"""Serves the page: a port that is free, limits on what comes in, no files from the disk, a clean end."""

import contextlib
import logging
import socket

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ovd.errors import UserError
from ovd.web.event_streams import EventStreams
from ovd.web.gate import Gate
from ovd.web.look import CSS, NARROW, theme

TRIED_PORTS = 50
LOCAL = frozenset(("localhost", "127.0.0.1", "[::1]"))


def make_app(page: gr.Blocks, file_bytes: int, uploads: str, names: frozenset[str] | None = None) -> FastAPI:
    """The page as an application; nothing in it comes from another machine or from this one's disk.

    Args:
        file_bytes: The most that an uploaded file has.
        uploads: The folder of uploads.
        names: What the server may be called by; None for anything.
    """
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(app, page, path="/", footer_links=[], run_history=False, show_error=False, ssr_mode=False,
                        max_file_size=file_bytes, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme(),
                        css=CSS, head=NARROW, app_kwargs={"openapi_url": None})
    page.has_launched = True  # else Gradio takes any path of this machine for an upload
    app.add_middleware(EventStreams)
    app.add_middleware(Gate, file_bytes=file_bytes, uploads=uploads, names=names)
    return app


def free_port(host: str, port: int) -> socket.socket:
    """A socket bound to a port, or to the next one that is free.

    Raises:
        UserError: None is free, or the host is not this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = min(port + TRIED_PORTS, 65536)
    for number in range(port, last):
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, number))
            bound.listen()
            return bound
        except PermissionError:
            bound.close()
            raise UserError(f"--port {number}: is for the system; choose one from 1024 on") from None
        except OSError as error:
            bound.close()
            if isinstance(error, socket.gaierror) or error.errno == 99:
                raise UserError(f"--host {host}: is no address of this machine ({error.strerror})") from None
    raise UserError(f"--port {port}: none of the ports {port} to {last - 1} is free")


def serve(app: FastAPI, bound: socket.socket) -> None:
    """Answer until Ctrl-C."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Says nothing of the pages that are still open when it ends."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
