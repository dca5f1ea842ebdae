"""Between two streams of events no answer is lost, and a visitor's events are answered in turn."""

import asyncio
import json
import threading
import time

import pytest

gr = pytest.importorskip("gradio", reason='needs Gradio: pip install "ovd[web]"')

from ovd.web.event_streams import EventStreams  # noqa: E402
from ovd.web.events import guarded  # noqa: E402

CLOSE = b'data: {"msg":"close_stream","event_id":null}\n\n'
DONE = b'data: {"msg":"process_completed"}\n\n'


async def gradio(scope, receive, send):
    """Answers as Gradio does: a stream of two messages, or the number of an event."""
    if scope["path"].endswith("join"):
        assert json.loads((await receive())["body"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"].endswith("data"):
        for body in (DONE, CLOSE):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        for _ in range(9):  # it takes a while to the end of a stream that takes no more events
            await asyncio.sleep(0)
        scope["through"].set()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Client:
    """A page: what it was sent, and when it hangs up."""

    def __init__(self, app, session="me"):
        self.app, self.session, self.sent, self.gone, self.through = app, session, [], asyncio.Event(), asyncio.Event()

    async def ask(self, path, body=None):
        parts = [] if body is None else [{"type": "http.request", "body": body}]

        async def receive():
            if parts:
                return parts.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            self.sent.append(message)

        await self.app({"type": "http", "path": path, "query_string": f"session_hash={self.session}".encode(),
                        "through": self.through}, receive, send)

    def stream(self):
        return asyncio.create_task(self.ask("/gradio_api/queue/data"))

    def join(self):
        event = json.dumps({"session_hash": self.session}).encode()
        return asyncio.create_task(self.ask("/gradio_api/queue/join", event))

    @property
    def heard(self):
        return b"".join(message.get("body", b"") for message in self.sent)


def test_an_event_is_confirmed_when_the_page_has_taken_the_end_of_its_stream():
    async def visit():
        app = EventStreams(gradio)
        page, other = Client(app), Client(app, "somebody else")
        streaming = page.stream()
        while CLOSE not in page.heard:
            await asyncio.sleep(0)
        assert page.through.is_set()  # the page hangs up on a server that has nothing left to do
        again = Client(app)
        joining = again.join()
        await other.join()  # another page's events do not wait
        assert other.sent and not again.sent and not streaming.done()
        page.gone.set()
        await asyncio.gather(streaming, joining)
        assert again.sent and page.heard == DONE + CLOSE and not app._ending

    asyncio.run(asyncio.wait_for(visit(), 30))


def test_an_event_that_comes_while_the_server_ends_the_stream_is_not_confirmed_before():
    async def visit():
        app = EventStreams(gradio)
        page = Client(app)
        streaming = page.stream()
        while DONE not in page.heard:
            await asyncio.sleep(0)
        again = Client(app)  # the page has its last answer, and not yet that its stream ends
        joining = again.join()
        while CLOSE not in page.heard:
            assert not again.sent
            await asyncio.sleep(0)
        page.gone.set()
        await asyncio.gather(streaming, joining)
        assert again.sent

    asyncio.run(asyncio.wait_for(visit(), 30))


def test_a_client_that_does_not_hang_up_is_not_waited_for(monkeypatch):
    async def visit():
        app = EventStreams(gradio)
        page, again = Client(app), Client(app)
        await page.stream()
        assert page.sent[-1] == {"type": "http.response.body", "body": b""} and page.heard == DONE + CLOSE
        await again.join()
        assert again.sent

    monkeypatch.setattr("ovd.web.event_streams._PATIENCE", 0.01)
    asyncio.run(asyncio.wait_for(visit(), 30))


def test_other_requests_and_strange_ones_pass():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])
        await receive()
        await send({"type": "http.response.start", "status": 422})

    async def nothing(*_):
        return {"type": "lifespan.startup"}

    async def visit():
        streams = EventStreams(app)
        page = Client(streams)
        for body in (b"", b"[1]", b"\xff", b"[" * 100_000):
            await page.ask("/queue/join", body)
        await page.ask("/config", b"")
        await streams({"type": "lifespan"}, nothing, nothing)

    asyncio.run(asyncio.wait_for(visit(), 30))
    assert seen == ["http"] * 5 + ["lifespan"]


def test_a_visitors_events_are_answered_in_turn_and_others_meanwhile():
    order, hold = [], threading.Event()

    def answer(name, request: gr.Request):
        order.append(f"{name} begins")
        if name == "slow":
            hold.wait(30)
        order.append(f"{name} ends")
        return [name]

    event = guarded(answer, 1, at=0)
    mine, theirs = gr.Request(session_hash="mine"), gr.Request(session_hash="theirs")
    slow = threading.Thread(target=event, args=("slow", mine))
    quick = threading.Thread(target=event, args=("quick", mine))
    slow.start()
    while not order:
        time.sleep(0.001)
    quick.start()
    assert event("other", theirs) == ["other"]
    hold.set()
    slow.join()
    quick.join()
    assert order == ["slow begins", "other begins", "other ends", "slow ends", "quick begins", "quick ends"]
