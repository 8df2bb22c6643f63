"""Clients of the server that keep it waiting, ask for too much, or leave all at once."""

from __future__ import annotations

import json
import random
import select
import signal
import socket
import string
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from command import PATIENCE, run_json, tiny_llada
from server import Server, chat_model, serve

PROMPT: Final = "In the beginning God created"
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTHY: Final = b'{"status":"ok"}'
CONNECTIONS: Final = 512
"""The most that the server has open."""

LONG_NAME: Final = "n" * 100_000
"""A model's name, which is in every piece of a stream: a hundred pieces are more than the system's buffers hold."""
BLOCKED: Final = 50
"""Passes after which a stream with this name waits for its client, if that does not read."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with room for answers that take long."""
    folder = chat_model(tmp_path_factory.mktemp("model") / "tiny-chat")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_sequence_length": 512}))
    return folder


def completion(body: dict[str, Any], version: str = "1.1") -> bytes:
    text = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


def stream(tokens: int) -> bytes:
    """A request for a text that grows by a token and its canvas with each pass, to the end of the connection."""
    options = {"stream": True, "canvas": True, "block_length": 1, "ignore_eos": True}
    return completion({"prompt": PROMPT, "max_tokens": tokens} | options, "1.0")


def connect(server: Server, request: bytes = b"") -> socket.socket:
    """A connection with a small buffer for what the server sends."""
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(request)
    return connection


def read(connection: socket.socket, end: bytes = b"") -> bytes:
    """What comes, to its end or to `end`."""
    data = bytearray()
    while not (end and data.endswith(end)) and (piece := connection.recv(1 << 20)):
        data += piece
    return bytes(data)


def wait_for_pass(server: Server, number: int) -> None:
    until = time.monotonic() + PATIENCE
    while server.metrics()["forward_passes_total"] < number:
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def blocked_stream(model: Path) -> Iterator[tuple[Server, socket.socket]]:
    """A server with one place, which has a text whose client does not read."""
    with (
        serve(model, "--sequences", 1, "--threads", 1, "--model-name", LONG_NAME) as server,
        connect(server, stream(400)) as connection,
    ):
        wait_for_pass(server, BLOCKED)
        yield server, connection


def assert_place_is_free(server: Server) -> None:
    server.wait_until("requests_running", 0)
    metrics = server.metrics()
    assert metrics["requests_cancelled_total"] == 1
    assert metrics["requests_finished_total"] == 0
    assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}).status == 200


# --- Slow readers.


def test_a_slow_reader_gets_the_latest_canvas_and_all_of_the_text_and_holds_nobody_up(model: Path) -> None:
    with (
        serve(model, "--sequences", 1, "--threads", 1, "--model-name", LONG_NAME) as server,
        connect(server, stream(100)) as connection,
    ):
        assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}).status == 200
        server.wait_until("requests_finished_total", 2)
        lines = read(connection).decode().split("\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    objects = [json.loads(event) for event in events[:-1]]
    options = ("--max-new-tokens", 100, "--block-length", 1, "--ignore-eos")
    expected = run_json("generate", tiny_llada(), "--prompt", PROMPT, *options)
    assert "".join(choice["text"] for entry in objects for choice in entry["choices"]) == expected["text"]
    canvases = [entry["canvas"] for entry in objects if "canvas" in entry]
    assert len(canvases) < 100 / 2
    assert canvases[-1]["pass"] == 100
    assert "".join(piece["text"] for piece in canvases[-1]["pieces"]) == expected["text"]


def test_a_slow_reader_that_goes_away_leaves_no_place_taken(model: Path) -> None:
    with blocked_stream(model) as (server, connection):
        connection.close()
        assert_place_is_free(server)


def test_a_signal_ends_the_server_though_a_client_does_not_read(model: Path) -> None:
    with blocked_stream(model) as (server, _):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == -signal.SIGTERM


# --- Slow writers.


@pytest.mark.parametrize(
    "request_bytes", [HEALTH, completion({"prompt": PROMPT, "max_tokens": 1})], ids=["head", "body"]
)
def test_a_request_may_come_byte_by_byte(model: Path, request_bytes: bytes) -> None:
    with serve(model) as server, connect(server) as connection:
        for byte in request_bytes:
            connection.sendall(bytes([byte]))
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_a_client_that_sends_on_and_on_while_it_is_answered_is_given_up(model: Path) -> None:
    with serve(model, "--sequences", 1) as server, connect(server, stream(400)) as connection:
        assert connection.recv(15) == b"HTTP/1.0 200 OK"
        with pytest.raises(ConnectionError):
            connection.sendall(HEALTH * 1_000_000)
        assert_place_is_free(server)


@dataclass
class Slow:
    """A client that sends `first`, then `more` again and again, and is sent `answer` and an end in place of an answer.

    Without an answer, it does not read.
    """

    first: bytes = b""
    more: bytes = b""
    answer: bytes | None = b""


SLOW: Final = {
    "silent": Slow(),
    "idle": Slow(HEALTH, answer=HEALTHY),
    "head that stops": Slow(HEALTH[:-2]),
    "head byte by byte": Slow(HEALTH[:-2] + b"X: ", b"x"),
    "body that stops": Slow(completion({"prompt": PROMPT})[:-1]),
    "body byte by byte": Slow(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n", b" "
    ),
    "chunks that stop": Slow(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    ),
    "body that was waited for": Slow(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n",
        answer=b"HTTP/1.1 100 Continue\r\n\r\n",
    ),
    "does not read": Slow(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000, answer=None),
}


def test_clients_that_keep_the_server_waiting_are_given_up(model: Path) -> None:
    """All that 30 seconds end, at the same time: no other test waits for them.

    The server of the stream is stopped meanwhile, so that its text does not end first.
    """
    with ExitStack() as stack:
        streaming, _ = stack.enter_context(blocked_stream(model))
        streaming.process.send_signal(signal.SIGSTOP)
        stack.callback(streaming.process.send_signal, signal.SIGCONT)
        server = stack.enter_context(serve(model, "--model-name", LONG_NAME))
        clients = {name: stack.enter_context(connect(server, slow.first)) for name, slow in SLOW.items()}
        server.wait_until("connections", len(clients) + 1)
        answers = dict.fromkeys(clients, b"")
        waiting = {name: client for name, client in clients.items() if SLOW[name].answer is not None}
        until = time.monotonic() + PATIENCE
        while waiting:
            assert time.monotonic() < until, f"{list(waiting)} are still connected"
            assert server.ask("/health").status == 200
            for name, client in list(waiting.items()):
                try:
                    client.sendall(SLOW[name].more)
                    if not select.select([client], [], [], 0)[0]:
                        continue
                    data = client.recv(65536)
                except OSError:  # it sent a byte behind the end
                    data = b""
                answers[name] += data
                if not data:
                    del waiting[name]
            time.sleep(0.5)
        for name, slow in SLOW.items():
            assert answers[name].endswith(slow.answer or b""), name
            assert answers[name].count(b"HTTP/1.1") == (1 if slow.answer else 0), name
        server.wait_until("connections", 1)  # that of the metrics
        streaming.process.send_signal(signal.SIGCONT)
        assert_place_is_free(streaming)


# --- Many connections.


def test_more_clients_than_it_takes_wait_until_others_leave(model: Path) -> None:
    with serve(model) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server, HEALTH)) for _ in range(CONNECTIONS)]
        for client in clients:
            assert read(client, HEALTHY).endswith(HEALTHY)
        late = [stack.enter_context(connect(server, HEALTH)) for _ in range(2)]
        clients[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        metrics = read(clients[0])
        assert b"\ndiffulex_edge_connections %d\n" % CONNECTIONS in metrics
        assert b'{path="/health",status="200"} %d\n' % CONNECTIONS in metrics
        for client, other in zip(clients, late, strict=False):
            client.close()
            assert read(other, HEALTHY).endswith(HEALTHY)
        for client in [*clients, *late]:
            client.close()
        server.wait_until("connections", 1)
        assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}).status == 200


def test_the_server_outlives_that_all_clients_leave_while_their_requests_wait(model: Path) -> None:
    """Two prompts take a while to become tokens: all clients are gone before that."""
    letters = "".join(random.Random(0).choices(string.ascii_lowercase, k=1_000_000))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    bodies = [b'{"prompt": "%s"}' % prompt.encode() for prompt in [letters] * 2 + [PROMPT] * (CONNECTIONS - 2)]
    with serve(model) as server, ExitStack() as stack:
        clients = []
        for body in bodies:
            clients.append(stack.enter_context(connect(server, head % len(body))))
            assert read(clients[-1], b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            clients[-1].sendall(body[:-1])
        server.process.send_signal(signal.SIGSTOP)
        for client, body in zip(clients, bodies, strict=True):
            client.sendall(body[-1:])
            client.close()
        server.process.send_signal(signal.SIGCONT)
        server.wait_until("connections", 1)
        assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}).status == 200
