"""Runs `diffulex-edge serve` for a test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from command import COMMAND, PATIENCE, SANITIZER_OPTIONS, tiny_llada

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(
        self, path: str, body: object = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """A request; `body` is sent as it is where it is bytes, as JSON otherwise."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return Answer(response.status, dict(response.headers), response.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read().decode())

    def metrics(self) -> dict[str, float]:
        lines = self.ask("/metrics").body.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("diffulex_edge_"): float(value) for name, _, value in pairs}

    def wait_until(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        until = time.monotonic() + PATIENCE
        while self.metrics()[name] != value:
            assert time.monotonic() < until, f"{name} is {self.metrics()[name]}, not {value}"
            time.sleep(0.01)


def chat_model(folder: Path) -> Path:
    """The bundled model with a small chat template."""
    shutil.copytree(tiny_llada(), folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def block_causal_chat_model(checkpoint: Callable[..., Path], folder: Path) -> Path:
    """A random SDAR with the bundled model's tokenizer and the same template."""
    shutil.copytree(checkpoint("sdar", vocab_size=1024), folder)
    shutil.copy(tiny_llada() / "tokenizer.json", folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@contextmanager
def serve(model: Path, *options: object, command: Path = COMMAND) -> Iterator[Server]:
    words = [str(command), "serve", str(model), "--port", "0", *map(str, options)]
    environment = os.environ | (SANITIZER_OPTIONS if command != COMMAND else {})
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("listening on "):
            break
    else:
        raise AssertionError("".join(said))
    try:
        yield Server(said[-1].split()[-1], process)
    finally:
        process.terminate()
        process.stderr.read()
        process.wait(PATIENCE)
