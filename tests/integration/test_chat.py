"""The command `chat`: turns from a pipe and from a terminal, what it keeps between them, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import (
    BAD_FILE,
    COMMAND,
    OUTPUT_ERROR,
    PATIENCE,
    SANITIZER_OPTIONS,
    USAGE_ERROR,
    assert_fails,
    run,
    run_json,
)
from conftest import MakeCheckpoint
from server import block_causal_chat_model, chat_model

SHORT = ("--max-new-tokens", 16, "--block-length", 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("chat") / "chatty")


@pytest.fixture(scope="module")
def sdar(checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return block_causal_chat_model(checkpoint, tmp_path_factory.mktemp("chat") / "sdar")


def chat(model: Path, lines: str, *options: object, command: Path = COMMAND) -> subprocess.CompletedProcess[str]:
    environment = os.environ | (SANITIZER_OPTIONS if command != COMMAND else {})
    return run("chat", model, *options, input=lines, command=command, env=environment)


def read_messages(file: Path) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = json.loads(file.read_text())["messages"]
    return messages


def rendered(messages: list[dict[str, str]]) -> str:
    """As CHAT_TEMPLATE does, for an answer."""
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: "


def assert_answers_are_generated(model: Path, messages: list[dict[str, str]], *options: object) -> None:
    """Every answer is what `generate` writes behind the messages before it."""
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            alone = run_json("generate", model, "--prompt", rendered(messages[:i]), *options)
            assert message["content"] == alone["text"]


def test_turns_from_a_pipe(model: Path, command: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    lines = f"Who art thou?\n\n  \nAnd the LORD\\\nsaid\n/save {file}\nlast"
    result = chat(model, lines, *SHORT, "--system", "Be brief.", command=command)
    assert result.returncode == 0, result.stderr
    messages = read_messages(file)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[i]["content"] for i in (0, 1, 3)] == ["Be brief.", "Who art thou?", "And the LORD\nsaid"]
    assert_answers_are_generated(model, messages, *SHORT)
    assert result.stdout.startswith(f"{messages[2]['content']}\n{messages[4]['content']}\n")
    assert result.stderr.count("16 tokens in 16 passes") == 3
    assert "from the cache" not in result.stderr  # a bidirectional model keeps nothing


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_blocks_that_are_finished_are_kept_between_turns(sdar: Path, dtype: str, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    options = ("--max-new-tokens", 24, "--mask-token-id", 1, "--ignore-eos", "--cache-dtype", dtype)
    result = chat(sdar, f"Who art thou?\nAnd then?\nWhat else?\n/save {file}\n", *options)
    assert result.returncode == 0, result.stderr
    assert_answers_are_generated(sdar, read_messages(file), *options)
    kept = [
        tuple(map(int, pair)) for pair in re.findall(r"; (\d+) of (\d+) prompt tokens from the cache", result.stderr)
    ]
    assert len(kept) == 2
    assert kept[0][1] > kept[0][0] >= 4
    assert kept[1][1] > kept[1][0] > kept[0][0]


def test_a_conversation_is_forgotten_and_loaded(model: Path, tmp_path: Path) -> None:
    file, later = tmp_path / "said.json", tmp_path / "later.json"
    lines = f"One\n/save {file}\n/reset\nTwo\n/load {file}\nThree\n/save {later}\n/save {later} \n/exit \nFour\n"
    result = chat(model, lines, *SHORT, "--quiet")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    messages = read_messages(later)
    assert [message["content"] for message in messages[::2]] == ["One", "Three"]
    assert messages[:2] == read_messages(file)
    assert_answers_are_generated(model, messages, *SHORT)


def test_a_turn_that_cannot_be_says_why_and_the_next_one_follows(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "odd.json").write_text('{"messages": [{"role": "user"}]}')
    for line, *words in (
        ("/shout", "/shout", "/help"),
        ("/save", "/save", "no file"),
        ("/save  ", "/save", "no file"),
        (f"/save {tmp_path / 'mine.txt'}", "mine.txt", "there already"),
        (f"/save {tmp_path / 'no' / 'file'}", "file"),
        (f"/load {tmp_path / 'missing.json'}", "missing.json"),
        (f"/load {tmp_path / 'mine.txt'}", "mine.txt", "JSON"),
        (f"/load {tmp_path / 'odd.json'}", "odd.json", "not a conversation"),
        ("word " * 300, "conversation", "room for, 256"),
    ):
        result = chat(model, f"{line}\nWho?\n", *SHORT, "--quiet")
        assert result.returncode == USAGE_ERROR, result.stderr
        first, last = result.stderr.splitlines()
        assert all(word in first for word in words), first
        assert "could not be answered" in last
        assert len(result.stdout) > 1, "the second turn"
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_models_and_options_that_cannot_talk(tiny: Path, model: Path, tmp_path: Path) -> None:
    assert_fails(run("chat", tiny, input="Who?\n"), BAD_FILE, str(tiny), "no chat template")
    for options, words in (
        (("--capacity", 0), ("--capacity", "256")),
        (("--capacity", 257), ("--capacity", "256")),
        (("--temperature", -1), ("temperature",)),
        (("--max-new-tokens", 0), ("max_new_tokens", "1 or more")),
        (("--cache", "exact"), ("exact",)),
        (("--visual",), ("--visual", "terminal")),
    ):
        assert_fails(run("chat", model, *options, input="Who?\n"), USAGE_ERROR, *words)


def test_text_that_looks_like_a_command_and_guidance(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    lines = f"/usr/bin is a folder\n /reset\n/\n/save {file}\n"
    result = chat(model, lines, *SHORT, "--cfg-scale", 1)
    assert result.returncode == 0, result.stderr
    messages = read_messages(file)
    assert [message["content"] for message in messages[::2]] == ["/usr/bin is a folder", " /reset", "/"]
    assert_answers_are_generated(model, messages, *SHORT, "--cfg-scale", 1)


def test_a_closed_pipe_ends_it(model: Path) -> None:
    words = [str(COMMAND), "chat", str(model), *map(str, SHORT), "--quiet"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write(b"One\nTwo\n")
        process.stdin.close()
        assert process.wait(PATIENCE) == -signal.SIGPIPE
        assert process.stderr.read() == b""
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(words, input=b"One\nTwo\n", stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == OUTPUT_ERROR
    assert result.stderr.count(b"stdout") == 1


# --- In a terminal.


class Terminal:
    """The keyboard and the screen of `diffulex-edge chat`."""

    def __init__(self, process: subprocess.Popen[bytes], leader: int) -> None:
        self.process = process
        self._leader = leader
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def wait_for(self, text: str) -> str:
        """Until the screen has shown it, since what was waited for last: what came before it."""
        until = time.monotonic() + PATIENCE
        while text not in self._shown:
            ready, _, _ = select.select([self._leader], [], [], until - time.monotonic())
            assert ready, f"{text!r} is not in {self._shown!r}"
            try:
                piece = os.read(self._leader, 65536)
            except OSError:  # the other end is closed
                piece = b""
            assert piece, self._shown
            self._shown += piece.decode(errors="replace").replace("\r\n", "\n")
        before, _, self._shown = self._shown.partition(text)
        return before


@contextmanager
def terminal(model: Path, *options: object, command: Path = COMMAND, **environment: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    variables: dict[str, Any] = os.environ | {"TERM": "xterm"} | environment
    variables |= SANITIZER_OPTIONS if command != COMMAND else {}
    # What a process without a terminal opens becomes its own: Ctrl-C reaches it.
    script = f'exec "$@" <{os.ttyname(follower)} >{os.ttyname(follower)} 2>&1'
    words = ["/bin/sh", "-c", script, "sh", str(command), "chat", str(model), *map(str, options)]
    process = subprocess.Popen(words, env=variables, start_new_session=True)
    try:
        yield Terminal(process, leader)
    finally:
        process.kill()
        process.wait()
        os.close(follower)
        os.close(leader)


LEFT, UP, BACKSPACE, CTRL_C, CTRL_D = "\x1b[D", "\x1b[A", "\x7f", "\x03", "\x04"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_lines_are_edited(model: Path, command: Path, locale: str, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    with terminal(model, *SHORT, command=command, LC_ALL=locale) as person:
        person.wait_for("> ")
        person.type("Grüße, 世界x" + LEFT + BACKSPACE + "\r")  # the x stays, the character before it goes
        person.wait_for("tokens per second")
        person.wait_for("> ")
        person.type(UP + "!\r")
        person.wait_for("tokens per second")
        person.wait_for("> ")
        # Terminals send a carriage return for each line of what is pasted.
        person.type("\x1b[200~one\rtwo\tand ö\r\rfour \x1b[201~five\r")
        person.wait_for("tokens per second")
        person.wait_for("> ")
        person.type(f"/save {file}\r")
        person.wait_for("messages in")
        person.wait_for("> ")
        person.type("half a line" + CTRL_C)
        person.wait_for("^C")
        person.wait_for("> ")
        person.type(CTRL_D)
        assert person.process.wait(PATIENCE) == 0
    asked = [message["content"] for message in read_messages(file)[::2]]
    assert asked == ["Grüße, 世x", "Grüße, 世x!", "one\ntwo\tand ö\n\nfour five"]


def test_a_long_paste_is_one_message(model: Path) -> None:
    with terminal(model, *SHORT) as person:
        person.wait_for("> ")
        text = "A line of a long text.\r" * 3000
        for begin in range(0, len(text), 1024):
            person.type(("\x1b[200~" if begin == 0 else "") + text[begin : begin + 1024])
        person.type("\x1b[201~\r")
        person.wait_for("conversation: ")
        person.wait_for("> ")
        person.type("Who?\r")
        person.wait_for("16 tokens in 16 passes")


def test_an_interrupt_ends_the_answer_only(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    with terminal(model, "--max-new-tokens", 200, "--block-length", 1, "--threads", 1) as person:
        person.wait_for("> ")
        person.type("Who?\r")
        person.wait_for("Who?")
        time.sleep(0.3)
        person.type(CTRL_C)
        shown = person.wait_for(" passes")
        assert int(shown.rpartition("(")[2].split()[0]) < 200
        person.wait_for("> ")
        person.type("/reset\r")
        person.wait_for("forgotten")
        person.wait_for("> ")
        person.type(f"/save {file}\r")
        person.wait_for("0 messages in")
        person.process.send_signal(signal.SIGTERM)
        assert person.process.wait(PATIENCE) == -signal.SIGTERM


def test_the_canvas_is_drawn(model: Path) -> None:
    with terminal(model, *SHORT, "--visual") as person:
        person.wait_for("> ")
        person.type("Who?\r")
        person.wait_for("░")
        person.wait_for("\x1b[1A")
        person.wait_for("16 tokens in 16 passes")
