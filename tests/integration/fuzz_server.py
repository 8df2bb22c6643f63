#!/usr/bin/env python3
"""Sends a server random requests: broken bodies and heads, aborted connections, many at once. Ends with exit code 1
where the server died, a sanitizer reported, an answer was no HTTP, or a place stayed taken.

    fuzz_server.py build/asan/bin/diffulex-edge --seconds 600 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from command import SANITIZER_OPTIONS
from server import Server, chat_model

WORDS = [
    "In the beginning",
    "",
    "a" * 5000,
    "\u00e4\u4e2d\U0001f600",
    "<|mask|>",
    "<|endoftext|>",
    "\x00",
    "LORD " * 40,
]
NUMBERS = [0, 1, -1, 2, 7, 32, 255, 256, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 0.5, -0.0, 1e308, 1e-320, 2.5]
FIELDS = [
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "stream",
    "stream_options",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "echo",
    "best_of",
    "response_format",
    "tool_choice",
    "tools",
    "steps",
    "steps_per_block",
    "block_length",
    "sub_block_length",
    "threshold",
    "factor",
    "remasking",
    "top_k",
    "min_p",
    "repetition_penalty",
    "suffix",
    "cache",
    "cache_refresh",
    "eps",
    "alg_temp",
    "cfg_scale",
    "eb_threshold",
    "editing_threshold",
    "max_post_steps",
    "initial_masks",
    "expand_budget",
    "pad_delete_to_right",
    "fixed_length",
    "window_size",
    "entropy_threshold",
    "pos_penalty_factor",
    "ignore_eos",
    "canvas",
    "chat_template_kwargs",
    "user",
]
NAMES = [
    "low_confidence",
    "random",
    "entropy",
    "origin",
    "maskgit_plus",
    "topk_margin",
    "sequential",
    "entropy_bounded",
    "p2",
    "auto",
    "none",
    "exact",
    "prefix",
    "dual",
    "block",
]
PATHS = [
    "/",
    "/health",
    "/metrics",
    "/v1/models",
    "/v1/models/x",
    "/v1/completions",
    "/v1/chat/completions",
    "/x",
    "*",
    "",
]


class Fuzzer:
    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.answers: Counter[str] = Counter()
        self.problems: list[str] = []

    def value(self, depth: int = 0) -> Any:
        kind = self.random.randrange(8 if depth < 4 else 5)
        if kind == 0:
            return self.random.choice([None, True, False])
        if kind in (1, 2):
            return self.random.choice(NUMBERS)
        if kind in (3, 4):
            return self.random.choice(WORDS + NAMES)
        if kind in (5, 6):
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return {self.random.choice([*FIELDS, "role", "content", "type"]): self.value(depth + 1) for _ in range(3)}

    def message(self) -> Any:
        role = self.random.choice(["user", "assistant", "system", "tool", ""])
        return self.value() if self.random.random() < 0.1 else {"role": role, "content": self.random.choice(WORDS)}

    def sensible(self) -> dict[str, Any]:
        """Mostly right, so that it is written: that is where most of the code is."""
        body: dict[str, Any] = {"max_tokens": self.random.choice([1, 5, 32, 64]), "stream": self.random.random() < 0.5}
        if self.random.random() < 0.4:
            body["messages"] = [self.message() for _ in range(self.random.randrange(1, 4))]
        body["prompt"] = self.random.choice([*WORDS, [5, 6, 1, 7], [self.random.randrange(1024) for _ in range(20)]])
        options = {
            "temperature": [0, 0.7, 5],
            "top_k": [0, 1, 5, 5000],
            "top_p": [0, 0.5, 1],
            "min_p": [0, 0.1, 1],
            "steps_per_block": [1, 3, 8, 1000],
            "block_length": [1, 8, 32, 1000],
            "threshold": [0, 0.5, 1],
            "factor": [0, 1, 50],
            "remasking": NAMES,
            "cache": NAMES,
            "cfg_scale": [0, 1, 1e300],
            "repetition_penalty": [1e-6, 1, 1.5, 1e300],
            "seed": [0, -1, 7],
            "stop": [["the"], [" a", "LORD"], []],
            "suffix": WORDS,
            "ignore_eos": [True, False],
            "canvas": [True],
            "stream_options": [{"include_usage": True}],
        }
        for name, choices in options.items():
            if self.random.random() < 0.08:
                body[name] = self.random.choice(choices)
        return body

    def body(self) -> bytes:
        kind = self.random.randrange(10)
        if kind < 6:
            body = self.sensible()
            for _ in range(self.random.choice([0, 0, 0, 1, 2])):
                body[self.random.choice(FIELDS)] = self.value()
            return json.dumps(body).encode()
        if kind == 6:
            return json.dumps(self.value()).encode()
        if kind == 7:
            depth = self.random.choice([10, 63, 64, 65, 1000, 100000])
            return b'{"prompt":' * depth + b"1" + b"}" * depth
        if kind == 8:
            return self.random.randbytes(self.random.choice([0, 1, 100, 5000]))
        text = bytearray(json.dumps(self.sensible()).encode())
        for _ in range(self.random.randrange(1, 5)):
            text[self.random.randrange(len(text))] = self.random.randrange(256)
        return bytes(text)

    def head(self, length: int) -> bytes:
        method = self.random.choice([b"POST"] * 40 + [b"GET"] * 6 + [b"HEAD", b"OPTIONS", b"PUT", b"", b"\xff"])
        path = self.random.choice([*PATHS, *["/v1/completions"] * 12, *["/v1/chat/completions"] * 8]).encode()
        version = self.random.choice([b"HTTP/1.1"] * 20 + [b"HTTP/1.0", b"HTTP/2", b""])
        lines = [b" ".join([method, path, version]), b"Host: localhost"]
        if self.random.random() < 0.7:  # else the client waits for more, until its time is up
            lines.append(b"Connection: close")
        if self.random.random() < 0.95:
            lines.append(b"Content-Length: %d" % self.random.choice([length] * 30 + [0, 1, length + 5, 1 << 40]))
        extras = [
            b"Expect: 100-continue",
            b"Connection: close",
            b"Connection: keep-alive",
            b"Origin: http://x",
            b"Host: x",
            b"Transfer-Encoding: chunked",
            b"A: " + b"b" * 30000,
            b"\x00: 1",
            b"Content-Length: 3",
            b": :",
        ]
        if self.random.random() < 0.15:
            lines.append(self.random.choice(extras))
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if self.random.random() < 0.05:
            head = head[: self.random.randrange(len(head))] + self.random.randbytes(3)
        return head

    def one(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            for _ in range(self.random.choice([1, 1, 1, 2, 3])):  # several on one connection, sent ahead
                body = self.body()
                data = self.head(len(body)) + body
                if self.random.random() < 0.1:
                    data = data[: self.random.randrange(len(data) + 1)]
                connection.sendall(data)
            kind = self.random.random()
            if kind < 0.25:  # goes away, at once or after the first bytes
                if kind < 0.15:
                    connection.settimeout(self.random.random())
                    connection.recv(1)
                if kind < 0.05:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
                self.answers["left"] += 1
                return
            connection.settimeout(self.random.choice([0.2, 1, 5]))
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            if answer and not answer.startswith(b"HTTP/1."):
                self.problems.append(f"no HTTP: {answer[:100]!r}")
            self.answers[answer[9:12].decode(errors="replace") or "nothing"] += 1

    def run(self, until: float) -> None:
        while time.monotonic() < until and not self.problems:
            try:
                self.one()
            except TimeoutError:
                self.answers["kept open"] += 1
            except ConnectionRefusedError:
                self.problems.append("the server is gone")
            except OSError as error:
                self.answers[type(error).__name__] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", type=Path, help="with a chat template (default: the bundled LLaDA with one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or chat_model(Path(folder) / "tiny-chat")
        log = Path(folder) / "log"
        words = [arguments.command, "serve", model, "--port", "0", "--sequences", "3", "--queue", "4", "--threads", "2"]
        with log.open("w") as stderr:
            process = subprocess.Popen(
                list(map(str, words)), stderr=stderr, text=True, env=os.environ | SANITIZER_OPTIONS
            )
        while "listening on " not in log.read_text():
            if process.poll() is not None:
                sys.exit(log.read_text())
            time.sleep(0.1)
        server = Server(log.read_text().split()[-1], process)
        fuzzers = [Fuzzer(server.port, arguments.seed * 1000 + i) for i in range(arguments.clients)]
        until = time.monotonic() + arguments.seconds
        threads = [threading.Thread(target=fuzzer.run, args=(until,)) for fuzzer in fuzzers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        problems = [problem for fuzzer in fuzzers for problem in fuzzer.problems]
        if process.poll() is None:
            server.wait_until("requests_running", 0)
            server.wait_until("requests_waiting", 0)
            answers = sum((fuzzer.answers for fuzzer in fuzzers), Counter[str]())
            print(dict(answers.most_common()))
            print({name: value for name, value in server.metrics().items() if "http" not in name})
            process.terminate()
        code = process.wait()
        if code != -15:
            problems.append(f"exit code {code}")
        print("\n".join(problems) or "nothing was found")
        if problems:
            print(log.read_text()[-20000:])
        return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
