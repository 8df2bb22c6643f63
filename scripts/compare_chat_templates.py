#!/usr/bin/env python3
"""Renders the chat templates below given folders here and in transformers, and compares them byte for byte.

usage: compare_chat_templates.py [--tool build/release/bin/render_chat] FOLDER...

A template is a .jinja file, or `chat_template` of a tokenizer_config.json or chat_template.json. Each renders the same
conversations: with a system message, several turns, tools, tool calls, reasoning, empty texts. Where transformers
refuses a conversation, we have to refuse it too. Needs transformers, and the program `render_chat` (`make test-tools`).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import chat_template_utils

NOW = 1_780_000_000
SPECIAL_TOKENS = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Weather in a place, with <tags> & "quotes".',
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "The place"},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    "points": {"type": "array", "items": {"type": "number"}},
                    "options": {
                        "type": "object",
                        "properties": {"detail": {"type": ["boolean", "null"], "description": "détail"}},
                    },
                },
                "required": ["place"],
            },
            "return": {"type": "string", "description": "What the weather is like"},
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    },
]
_CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "points": [1.5, 2], "x": None}},
}
_CALL_TEXT = {
    "id": "call00002",
    "type": "function",
    "function": {"name": "now", "arguments": '{"zone": "UTC"}'},
}
_USER = {"role": "user", "content": "What is the weather?"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": [_USER],
    "system": [{"role": "system", "content": "Be brief."}, _USER],
    "developer": [{"role": "developer", "content": "Be brief."}, _USER],
    "turns": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": " First?  "},
        {"role": "assistant", "content": "One.\n"},
        {"role": "user", "content": "\tSecond?"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Third?"},
    ],
    "ends-with-assistant": [_USER, {"role": "assistant", "content": "Sunny."}],
    "empty": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "unicode": [
        {
            "role": "user",
            "content": "caf\u00e9 \u4e2d\u6587 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u202e \u00a0\u2003",
        },
        {"role": "assistant", "content": "\u3000\ud55c\uad6d\uc5b4 \x1c<|im_end|>\x85"},
        {"role": "user", "content": "'single' \"double\" \\ back\tslash </s>"},
    ],
    "thinking": [
        _USER,
        {"role": "assistant", "content": "<think>\nIt is summer.\n</think>\n\nSunny."},
        {"role": "user", "content": "And tomorrow?"},
        {"role": "assistant", "content": "</think>Rain<think>"},
        {"role": "user", "content": "Sure?"},
    ],
    "reasoning": [
        _USER,
        {"role": "assistant", "reasoning_content": " It is summer. \n", "content": "Sunny."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "thinking": "Hm", "content": "Rain."},
    ],
    "tool-call": [
        _USER,
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"sky": "blue"}'},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Thanks"},
    ],
    "tool-calls": [
        {"role": "system", "content": "Use tools."},
        _USER,
        {"role": "assistant", "content": "I ask.", "tool_calls": [_CALL, _CALL_TEXT], "reasoning_content": "Which?"},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "blue"},
        {"role": "tool", "tool_call_id": "call00002", "name": "now", "content": "noon"},
    ],
    "tool-call-without-content": [
        _USER,
        {"role": "assistant", "content": None, "tool_calls": [_CALL_TEXT]},
        {"role": "tool", "tool_call_id": "call00002", "content": "noon"},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Look."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}, {"type": "text", "text": "Grey."}]},
        {"role": "user", "content": "Yes"},
    ],
    "no-content": [{"role": "user"}, {"role": "assistant"}],
    "no-role": [{"content": "Hello"}],
    "unknown-role": [{"role": "narrator", "content": "Once"}, _USER],
    "two-users": [_USER, {"role": "user", "content": "Well?"}],
    "begins-with-assistant": [{"role": "assistant", "content": "Hello"}, _USER],
    "no-text": [{"role": "user", "content": 1.5}, {"role": "assistant", "content": {"a": [True, None, "it's"]}}],
}
VARIABLES: list[dict[str, Any]] = [{}, {"enable_thinking": False}, {"enable_thinking": True, "thinking": True}]


class Template(NamedTuple):
    name: str
    text: str


class Request(NamedTuple):
    template: Template
    name: str
    messages: list[dict[str, Any]]
    options: dict[str, Any]


def find_templates(folder: Path) -> Iterator[Template]:
    for path in sorted(folder.rglob("*.jinja")):
        yield Template(str(path), path.read_text(encoding="utf-8"))
    for path in sorted([*folder.rglob("tokenizer_config.json"), *folder.rglob("chat_template.json")]):
        found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(found, str):
            yield Template(str(path), found)
        for each in found if isinstance(found, list) else []:
            yield Template(f"{path}: {each['name']}", each["template"])


def make_requests(template: Template) -> Iterator[Request]:
    for name, messages in CONVERSATIONS.items():
        for prompt in (False, True):
            for tools in (None, TOOLS):
                for variables in VARIABLES:
                    options = {"add_generation_prompt": prompt, "tools": tools, "variables": variables}
                    yield Request(template, name, messages, options)


class Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(NOW, UTC).replace(tzinfo=tz)


def transformers_text(request: Request) -> str | None:
    """What apply_chat_template renders, or None where it raises."""
    clock = chat_template_utils.datetime
    chat_template_utils.datetime = Clock
    try:
        messages = chat_template_utils._normalize_chat_messages(request.messages)
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[messages],
            tools=request.options["tools"],
            chat_template=request.template.text,
            add_generation_prompt=request.options["add_generation_prompt"],
            **(SPECIAL_TOKENS | request.options["variables"]),
        )
    except Exception:
        return None
    finally:
        chat_template_utils.datetime = clock
    return str(rendered[0])


def our_answers(tool: Path, requests: list[Request]) -> list[dict[str, str]]:
    lines = []
    for request in requests:
        options = {key: value for key, value in request.options.items() if value is not None}
        options["variables"] = SPECIAL_TOKENS | options["variables"]
        line = {"template": request.template.text, "messages": request.messages, "now": NOW} | options
        lines.append(json.dumps(line))
    process = subprocess.run(
        [tool],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TZ": "UTC"},
    )
    return [json.loads(line) for line in process.stdout.splitlines()]


def difference(request: Request, answer: dict[str, str]) -> str | None:
    expected = transformers_text(request)
    if answer.get("text") == expected:
        return None
    if "text" not in answer:
        return f"we refuse: {answer['error']}"
    if expected is None:
        return "transformers refuses"
    pairs = enumerate(zip(answer["text"], expected, strict=False))
    common = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(answer["text"]), len(expected)))
    return f"at {common}: we {answer['text'][common : common + 60]!r}, transformers {expected[common : common + 60]!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "build/release/bin/render_chat"
    parser.add_argument("--tool", type=Path, default=default)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    seen: set[str] = set()
    agreeing = 0
    counts: collections.Counter[str] = collections.Counter()
    for template in (each for folder in arguments.folders for each in find_templates(folder)):
        if template.text in seen:
            continue
        seen.add(template.text)
        requests = list(make_requests(template))
        answers = our_answers(arguments.tool, requests)
        counts["texts"] += sum("text" in answer for answer in answers)
        counts["conversations"] += len(answers)
        differences: dict[str, str] = {}
        for request, answer in zip(requests, answers, strict=True):
            found = difference(request, answer)
            if found is not None:
                counts["differences"] += 1
                differences.setdefault(found, request.name)
        agreeing += not differences
        if differences:
            print(template.name)
            for text, name in list(differences.items())[:8]:
                print(f"  {name}: {text}")
    print(
        f"{agreeing} of {len(seen)} templates agree in all conversations; {counts['conversations']} renderings, "
        f"{counts['texts']} of them texts, {counts['differences']} differ"
    )
    return 0 if agreeing == len(seen) else 1


if __name__ == "__main__":
    sys.exit(main())
