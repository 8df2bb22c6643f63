"""The server, as the `openai` client, sockets and a browser see it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from browser import open_browser
from command import COMMAND, OUTPUT_ERROR, PATIENCE, USAGE_ERROR, assert_fails, run, run_json, tiny_llada
from openai import OpenAI
from server import Server, block_causal_chat_model, chat_model, serve

PROMPT = "In the beginning God created"
PROMPTS = [
    f"And the {word} said unto" for word in ["LORD", "king", "man", "woman", "angel", "servant", "people", "priest"]
] * 2
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = {"prompt": PROMPT, "max_tokens": 220, "stream": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("model") / "tiny-chat")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serve(model, "--sequences", 4, "--max-new-tokens", 24) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key="any", timeout=PATIENCE, max_retries=0)


def generated(prompt: str, *options: object) -> dict[str, Any]:
    """What the command `generate` writes."""
    return run_json("generate", tiny_llada(), "--prompt", prompt, *options)


# --- What it writes.


def test_completions_are_what_generate_writes(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny-chat", prompt=PROMPT, max_tokens=32)
    expected = generated(PROMPT, "--max-new-tokens", 32)
    assert answer.choices[0].text == expected["text"]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected["prompt_tokens"]
    assert answer.usage.completion_tokens == len(expected["tokens"]) == 32
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 32


def test_chats_are_rendered_by_the_template(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Speak."},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "came?"}]},
    ]
    answer = client.chat.completions.create(model="tiny-chat", messages=messages)
    expected = generated("system: Speak.\nuser: Who came?\nassistant: ", "--max-new-tokens", 24)
    assert answer.choices[0].message.content == expected["text"]
    assert answer.choices[0].message.role == "assistant"


def test_streams_give_the_same_text_piece_by_piece(client: OpenAI) -> None:
    stream = client.completions.create(
        model="tiny-chat", prompt=PROMPT, max_tokens=32, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(pieces) == generated(PROMPT, "--max-new-tokens", 32)["text"]
    assert len([piece for piece in pieces if piece]) > 2
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 32


def test_a_chat_stream_begins_with_the_role_and_joins_to_the_whole(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Who came?"}]
    whole = client.chat.completions.create(model="tiny-chat", messages=messages).choices[0].message.content
    chunks = list(client.chat.completions.create(model="tiny-chat", messages=messages, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert len({chunk.id for chunk in chunks}) == 1


def test_options_of_a_request_are_those_of_generate(client: OpenAI) -> None:
    options: dict[str, Any] = {"steps_per_block": 4, "block_length": 8, "remasking": "random", "top_k": 20}
    answer = client.completions.create(
        model="tiny-chat", prompt=PROMPT, max_tokens=16, temperature=0.7, top_p=0.9, seed=7, extra_body=options
    )
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    same = generated(PROMPT, "--max-new-tokens", 16, "--temperature", 0.7, "--top-p", 0.9, "--seed", 7, *words)
    assert answer.choices[0].text == same["text"]
    assert answer.model_extra is not None
    assert answer.model_extra["generation"]["forward_passes"] == same["forward_passes"] == 8


def test_a_stop_text_ends_the_answer_before_it(client: OpenAI) -> None:
    text = generated(PROMPT, "--max-new-tokens", 32)["text"]
    stop = text.split()[4]
    answer = client.completions.create(model="tiny-chat", prompt=PROMPT, max_tokens=32, stop=["never this", stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_suffix_is_kept_behind_the_text(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny-chat", prompt=PROMPT, suffix=" and ever.", max_tokens=16)
    assert answer.choices[0].text == generated(PROMPT, "--suffix", " and ever.", "--max-new-tokens", 16)["text"]


def test_a_prompt_may_be_tokens(client: OpenAI, server: Server) -> None:
    text = client.completions.create(model="tiny-chat", prompt=[5, 6, 7, 300], max_tokens=8).choices[0].text
    assert (
        server.ask("/v1/completions", {"prompt": [[5, 6, 7, 300]], "max_tokens": 8}).json()["choices"][0]["text"]
        == text
    )


def test_sixteen_at_once_write_what_each_writes_alone(client: OpenAI, server: Server) -> None:
    def write(prompt: str) -> str:
        return client.completions.create(model="tiny-chat", prompt=prompt, max_tokens=48).choices[0].text

    alone = [write(prompt) for prompt in PROMPTS]
    before = server.metrics()
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(write, PROMPTS)) == alone
    after = server.metrics()
    passes = after["forward_passes_total"] - before["forward_passes_total"]
    sequences = after["sequence_passes_total"] - before["sequence_passes_total"]
    assert sequences == 16 * 48
    assert passes < sequences / 2  # they went through the model together


@pytest.mark.parametrize("more", [{}, {"remasking": "p2"}], ids=str)
def test_the_canvas_shows_masks_that_become_the_text(server: Server, more: dict[str, Any]) -> None:
    body = {"prompt": PROMPT, "max_tokens": 24, "stream": True, "canvas": True, **more}
    events = [line[6:] for line in server.ask("/v1/completions", body).body.splitlines() if line]
    assert events[-1] == "[DONE]"
    objects = [json.loads(event) for event in events[:-1]]
    canvases = [entry["canvas"]["pieces"] for entry in objects if "canvas" in entry]
    masks = [sum(piece.get("masks", 0) for piece in pieces) for pieces in canvases]
    assert masks == sorted(masks, reverse=True)
    assert masks[-1] == 0
    text = "".join(choice["text"] for entry in objects for choice in entry["choices"])
    assert "".join(piece["text"] for piece in canvases[-1]) == text


def test_models_say_what_is_served(client: OpenAI) -> None:
    models = list(client.models.list())
    assert [entry.id for entry in models] == ["tiny-chat"]
    assert client.models.retrieve("tiny-chat").id == "tiny-chat"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


# --- Clients that go away.


def open_stream(server: Server) -> socket.socket:
    """A stream whose head has arrived."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    body = json.dumps(LONG).encode()
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
    connection.sendall(body)
    assert connection.recv(15) == b"HTTP/1.1 200 OK"
    return connection


@pytest.fixture
def small(model: Path) -> Iterator[Server]:
    """One place, and a queue of one."""
    with serve(model, "--sequences", 1, "--queue", 1) as started:
        yield started


def test_clients_that_go_away_leave_no_place_taken(small: Server) -> None:
    for _ in range(3):
        streams = [open_stream(small)]
        waiting = socket.create_connection(("127.0.0.1", small.port))
        body = json.dumps(LONG | {"stream": False}).encode()
        waiting.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        waiting.sendall(body)
        for connection in [*streams, waiting]:
            connection.close()
        small.wait_until("requests_running", 0)
        small.wait_until("requests_waiting", 0)
    metrics = small.metrics()
    assert metrics["requests_cancelled_total"] >= 3
    assert metrics["forward_passes_total"] < 3 * 220
    assert small.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}).status == 200


def test_the_client_can_close_its_stream(small: Server) -> None:
    client = OpenAI(base_url=small.url + "/v1", api_key="any", max_retries=0)
    with client.completions.create(model="tiny-chat", prompt=PROMPT, max_tokens=220, stream=True) as stream:
        next(iter(stream))
    small.wait_until("requests_running", 0)
    assert small.metrics()["requests_cancelled_total"] == 1


def test_a_full_queue_refuses_and_says_when_to_come_again(small: Server) -> None:
    with open_stream(small), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(small.ask, "/v1/completions", {"prompt": PROMPT, "max_tokens": 4})
        small.wait_until("requests_waiting", 1)
        answer = small.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4})
        if small.metrics()["requests_waiting"] == 1:  # else the stream ended meanwhile
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["error"]["code"] == "queue_full"
        assert waiting.result().status == 200


# --- What is refused.


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 99999]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1 << 70}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 2}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 7}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logprobs": 1}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"seed": 0.5}, "seed"),
        ({"steps": 0}, "steps"),
        ({"remasking": "magic"}, "remasking"),
        ({"cache": "exact"}, "cache"),
        ({"steps": 7, "block_length": 4}, "steps"),
        ({"canvas": True}, "canvas"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else None,
)
def test_a_wrong_field_is_named(server: Server, body: dict[str, Any], param: str) -> None:
    answer = server.ask("/v1/completions", body if param == "prompt" else {"prompt": PROMPT} | body)
    assert answer.status == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert "\n" not in error["message"]


def test_fields_that_nobody_knows_are_ignored(server: Server) -> None:
    body = {"prompt": PROMPT, "max_tokens": 4, "user": "me", "metadata": {"a": [1]}, "stop": None, "n": 1}
    assert server.ask("/v1/completions", body).status == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"prompt": "\xff"}', "JSON"),
        (b"[]", "object"),
        (b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}", "nested"),
        (b'{"prompt": "a", "prompt": "b"}', "twice"),
    ],
    ids=["empty", "cut", "not_utf8", "list", "deep", "twice"],
)
def test_a_body_that_is_no_request_is_refused(server: Server, body: bytes, word: str) -> None:
    answer = server.ask("/v1/completions", body, method="POST")
    assert answer.status == 400
    assert word in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([], "at least one"),
        ("hello", "list"),
        ([{"content": "x"}], "role"),
        ([{"role": "user", "content": 5}], "content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
        ([{"role": "user", "content": "fill <|mask|> in"}], "mask"),
        ([{"role": "user"}], ""),
    ],
)
def test_messages_that_are_wrong_are_refused(server: Server, messages: object, word: str) -> None:
    answer = server.ask("/v1/chat/completions", {"messages": messages})
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "messages"
    assert word in answer.json()["error"]["message"]


def test_too_long_prompts_and_bodies_and_unknown_places(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny-chat", prompt="word " * 300)
    assert caught.value.code == "context_length_exceeded"
    assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 256}).json()["error"]["code"] == (
        "context_length_exceeded"
    )
    large = server.ask("/v1/completions", b" " * (1 << 20) + b"{}")
    assert (large.status, large.json()["error"]["code"]) == (413, "body_too_large")
    assert server.ask("/v2").status == 404
    wrong = server.ask("/v1/completions")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert server.ask("/health", b"{}").status == 405
    assert server.ask("/v1/completions", {"prompt": PROMPT, "model": "gpt-4"}).status == 404
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny-chat", prompt=PROMPT, n=2)


def test_the_longest_answer_that_fits_is_written(server: Server) -> None:
    used = generated(PROMPT, "--max-new-tokens", 1)["prompt_tokens"]
    body = {"prompt": PROMPT, "max_tokens": 256 - used, "steps_per_block": 2, "ignore_eos": True}
    assert server.ask("/v1/completions", body).json()["usage"]["total_tokens"] == 256
    assert server.ask("/v1/completions", body | {"max_tokens": 257 - used}).status == 400


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20000 + b"\r\n\r\n", b"431"),
        (CHUNKED + b"1;" + b"y" * (1 << 20), b"431"),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * (1 << 18), b"431"),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", b"403"),
    ],
    ids=["nonsense", "version", "length", "large", "head", "chunk_head", "trailer", "rebound_name", "foreign_page"],
)
def test_requests_that_are_not_ours_get_a_status(server: Server, request_bytes: bytes, status: bytes) -> None:
    assert raw(server, request_bytes).startswith(b"HTTP/1.1 " + status)


def test_a_connection_serves_several_requests_and_those_sent_ahead(server: Server) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(request * 3)
        answer = b""
        while answer.count(b'{"status":"ok"}') < 3:
            answer += connection.recv(65536)
        connection.sendall(b"HEAD /health HTTP/1.0\r\n\r\n")
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"200 OK") == 4
    assert answer.endswith(b"\r\n\r\n")


# --- How it is started and stopped.


def test_a_key_guards_all_but_the_page_and_health(model: Path) -> None:
    with serve(model, "--api-key", "secret") as server:
        assert server.ask("/health").status == 200
        assert server.ask("/").status == 200
        for path in ("/v1/models", "/metrics"):
            assert server.ask(path).status == 401
            assert server.ask(path, headers={"Authorization": "Bearer wrong"}).status == 401
            assert server.ask(path, headers={"Authorization": "Bearer secret"}).status == 200
        client = OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model="tiny-chat", prompt=PROMPT)


def test_a_model_without_a_chat_template_completes_only() -> None:
    with serve(tiny_llada()) as server:
        answer = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
        assert answer.status == 501
        assert "chat template" in answer.json()["error"]["message"]
        assert server.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}).status == 200


def test_a_port_in_use_is_one_sentence(server: Server, model: Path) -> None:
    assert_fails(run("serve", model, "--port", server.port, "--quiet"), OUTPUT_ERROR, f"port {server.port}", "in use")


def test_what_cannot_be_served_is_said_at_the_start(model: Path) -> None:
    assert_fails(run("serve", model, "--port", 0, "--host", "nowhere", "--quiet"), USAGE_ERROR, "nowhere")
    assert_fails(run("serve", model, "--port", 0, "--capacity", 9999, "--quiet"), USAGE_ERROR, "--capacity", "256")
    assert_fails(run("serve", model, "--port", 0, "--steps", 7, "--quiet"), USAGE_ERROR, "steps")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_streams_and_the_server(model: Path, number: signal.Signals) -> None:
    with serve(model, "--sequences", 1) as server:
        connection = open_stream(server)
        server.process.send_signal(number)
        data = b""
        while piece := connection.recv(65536):
            data += piece
        assert server.process.wait(PATIENCE) == -number
        assert b"shutting_down" in data or b"[DONE]" in data
        connection.close()


def test_a_model_with_blocks_is_served(checkpoint: Any, tmp_path: Path) -> None:
    folder = block_causal_chat_model(checkpoint, tmp_path / "sdar")
    with serve(folder, "--capacity", 64, "--mask-token-id", 1) as server:
        body = {"prompt": PROMPT, "max_tokens": 8, "ignore_eos": True}
        answer = server.ask("/v1/completions", body)
        assert answer.status == 200, answer.body
        assert answer.json()["usage"]["completion_tokens"] == 8
        refused = server.ask("/v1/completions", body | {"suffix": "end"})
        assert refused.json()["error"]["param"] == "suffix"


def test_a_conversation_goes_on_from_the_cache(checkpoint: Any, tmp_path: Path) -> None:
    folder = block_causal_chat_model(checkpoint, tmp_path / "sdar")
    body: dict[str, Any] = {"max_tokens": 16, "ignore_eos": True, "messages": [{"role": "user", "content": PROMPT}]}
    with serve(folder, "--capacity", 128, "--mask-token-id", 1) as server:
        first = server.ask("/v1/chat/completions", body).json()
        assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        body["messages"] += [first["choices"][0]["message"], {"role": "user", "content": "And then?"}]
        second = server.ask("/v1/chat/completions", body).json()
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert first["usage"]["prompt_tokens"] // 4 * 4 <= cached < second["usage"]["prompt_tokens"]
        assert server.metrics()["cached_tokens_total"] == cached
    with serve(folder, "--capacity", 128, "--mask-token-id", 1) as server:
        assert server.ask("/v1/chat/completions", body).json()["choices"] == second["choices"], "without the first turn"


# --- The page.


class Address:
    """Stands for a path, as Browser.load takes one."""

    def __init__(self, url: str) -> None:
        self.url = url

    def resolve(self) -> Address:
        return self

    def as_uri(self) -> str:
        return self.url


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fills_in_a_canvas(server: Server, width: int) -> None:
    with open_browser() as browser:
        page = browser.load(Address(server.url + "/"), width)  # type: ignore[arg-type]
        until = time.monotonic() + PATIENCE
        while "tiny-chat" not in page.evaluate("document.getElementById('about').textContent"):
            assert time.monotonic() < until
        page.driver.execute_script(
            """window.masks = [];
            new MutationObserver(() => masks.push(document.querySelectorAll('#canvas i').length))
              .observe(document.getElementById('canvas'), {childList: true});
            document.getElementById('as').value = 'text';
            document.getElementById('prompt').value = arguments[0];
            document.getElementById('max_tokens').value = 32;
            document.getElementById('form').requestSubmit();""",
            PROMPT,
        )
        while page.evaluate("document.getElementById('tiles').hidden || !document.getElementById('stop').disabled"):
            assert time.monotonic() < until
        text = page.evaluate("document.getElementById('canvas').textContent")
        assert text == PROMPT + generated(PROMPT, "--max-new-tokens", 32)["text"]
        masks = page.evaluate("masks")
        assert masks == sorted(masks, reverse=True)
        assert masks[0] > 0
        assert masks[-1] == 0
        assert page.evaluate("document.getElementById('tokens').textContent") == "32"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.console == []
        assert page.driver.get_log("browser") == []
        assert all(url.startswith((server.url, "data:")) for url in page.requests)


def test_the_page_shows_an_error(server: Server) -> None:
    with open_browser() as browser:
        page = browser.load(Address(server.url + "/"), 400)  # type: ignore[arg-type]
        until = time.monotonic() + PATIENCE
        while "tiny-chat" not in page.evaluate("document.getElementById('about').textContent"):
            assert time.monotonic() < until
        page.driver.execute_script(
            "document.getElementById('max_tokens').value = 9999; document.getElementById('form').requestSubmit()"
        )
        while page.evaluate("document.getElementById('error').hidden"):
            assert time.monotonic() < until
        assert "9999" in page.evaluate("document.getElementById('error').textContent")


def test_the_help_names_the_limits() -> None:
    result = subprocess.run([COMMAND, "serve", "--help"], capture_output=True, text=True, check=True)
    for option in ("--host", "--port", "--api-key", "--sequences", "--capacity", "--queue", "--max-body"):
        assert option in result.stdout
