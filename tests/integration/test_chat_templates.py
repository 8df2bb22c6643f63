"""Chat templates render the bytes that transformers' `apply_chat_template` renders, whatever the conversation.

The templates here are our own; they use what the published ones of the models' families use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from command import COMMAND, PATIENCE, SANITIZED_COMMAND, SANITIZER_OPTIONS, tiny_llada
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from compare_chat_templates import (
    CONVERSATIONS,
    NOW,
    SPECIAL_TOKENS,
    TOOLS,
    Request,
    Template,
    difference,
    make_requests,
    our_answers,
    transformers_text,
)

_TOOL: Final = COMMAND.parent / "render_chat"
pytestmark = pytest.mark.skipif(not _TOOL.is_file(), reason=f"{_TOOL} is not built beside the command")

TEMPLATES: Final = {
    # LLaDA and Llama 3: headers, the first token, roles that have to be known.
    "headers": """\
{%- set separator = '\\n\\n' -%}
{%- for message in messages -%}
  {%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}
    {{- raise_exception('Unknown role: ' ~ message['role']) -}}
  {%- endif -%}
  {%- set text = '<|header|>' + message['role'] + '<|/header|>' + separator + message['content'] | trim + '<|eot|>' -%}
  {%- if loop.index0 == 0 -%}{%- set text = bos_token + text -%}{%- endif -%}
  {{ text }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|header|>assistant<|/header|>' ~ separator }}{%- endif -%}
""",
    # Qwen2.5, Dream, Fast-dLLM v2: tools in the system message, calls, answers of tools that are put together.
    "tools": """\
{%- if tools %}
    {{- '<|start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You help.' }}
    {%- endif %}
    {{- "\\n\\n# Functions\\n<list>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</list>{\\"name\\": <name>}<|end|>\\n" }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|start|>system\\nYou help.<|end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not tools)
           or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|start|>' + message.role + '\\n' + message.content + '<|end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '\\n<call>{"name": "' }}
            {{- call.name }}
            {{- '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}</call>' }}
        {%- endfor %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|start|>user' }}
        {%- endif %}
        {{- '\\n<answer>\\n' }}
        {{- message.content }}
        {{- '\\n</answer>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}
{%- endif %}
""",
    # Qwen3, SDAR: the last question is looked for from the end, thoughts before it are left out.
    "thoughts": """\
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string
           and not (message.content.startswith('<answer>') and message.content.endswith('</answer>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thought)) %}
            {{- '<|a|>\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|a|>\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {{- loop.nextitem is defined ~ loop.revindex ~ '/' ~ loop.length }}
        {%- endfor %}
    {%- else %}
        {{- '<|' ~ message.role ~ '|>\\n' ~ content ~ (loop.previtem or {}).role }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|a|>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    # Llama 3.1 and later: defaults, dates, what the first message holds, indented JSON.
    "dates": """\
{{- bos_token }}
{%- if not tools_first is defined %}
    {%- set tools_first = true %}
{%- endif %}
{%- if not date is defined %}
    {%- if strftime_now is defined %}
        {%- set date = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date = "?" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "Date: " + date + "\\n" + system }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- message['role'] + ':' + message['content'] | trim }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {%- if call.arguments is mapping %}
            {%- for name, value in call.arguments | items %}
                {{- name + '="' ~ value ~ '"' }}
                {%- if not loop.last %}{{- ", " }}{%- endif %}
            {%- endfor %}
        {%- else %}
            {{- call.arguments }}
        {%- endif %}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
{%- endfor %}
""",
    # SmolLM2 and older templates: tags without dashes, whose line ends Jinja strips.
    "plain": """
{% for message in messages %}
    {% if loop.first and messages[0]['role'] != 'system' %}
<s>system
You help.</s>
    {% endif %}
{# a comment #}
<s>{{ message['role'] + '\\n' + message['content'] }}</s>

  {%+ if true %} kept {% endif +%}

{% endfor %}
{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}
{% raw %}  {{ raw }} {% endraw %}

""",
    # Macros, blocks, calls and what else the wider family of templates uses.
    "macros": """\
{%- macro show(value, level=0, key=none) -%}
  {%- if value is mapping -%}
    {%- for k, v in value | dictsort %}{{ '\\n' ~ '  ' * level ~ k ~ ':' ~ show(v, level + 1, key=k) }}{% endfor -%}
  {%- elif value is string -%}{{ value | tojson }}
  {%- elif value is sequence -%}[{% for v in value %}{{ show(v, level + 1) }}{{ ', ' if not loop.last }}{% endfor %}]
  {%- else -%}{{ value }}{%- endif -%}
{%- endmacro -%}
{%- macro frame(name) -%}<{{ name }}>{{ caller() }}</{{ name }}>{%- endmacro -%}
{%- for tool in tools or [] %}{{ show(tool) }}{% else %}no tools{% endfor %}
{%- for message in messages if message.role != 'system' %}
  {%- call frame(message.role | upper) %}{{ message.get('content', 'nothing') }}{% endcall %}
  {%- set parts %}{% for part in message.content if part.type == 'text' %}{{ part.text }};{% endfor %}{% endset %}
  {{- parts | replace(';', '|') }}
  {%- generation %}{{ message.content | string | length }}{% endgeneration %}
  {%- if loop.index > 3 %}{% break %}{% endif %}
  {%- if message.role == 'tool' %}{% continue %}{% endif %}
  {{- loop.cycle('a', 'b') ~ loop.changed(message.role) }}
{%- endfor %}
{%- set roles = messages | map(attribute='role') | list %}
{{ roles | unique | join(',') }} {{ roles | select('equalto', 'user') | list | count }} {{ roles[-1] }}
{{ messages | selectattr('tool_calls', 'defined') | map(attribute='tool_calls') | sum(start=[]) | length }}
{{ (messages | first).role | default('?') }} {{ messages | rejectattr('content') | list }}
{%- with total = messages | length, third = 1 / 3 %} {{ total // 2 }} {{ third }} {{ third | round(2) }}{% endwith %}
{%- filter trim %}  {{ messages[0].content }}  {% endfilter %}
""",
    # Everything as Python prints it.
    "printing": "{{ messages }}\n{{ tools }}{{ [1.0, 1e20, -0.0, none, true, 'a', \"it's\"] }} {{ bos_token ~ x }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_rendered_as_by_transformers(name: str) -> None:
    requests = list(make_requests(Template(name, TEMPLATES[name])))
    answers = our_answers(_TOOL, requests)
    for request, answer in zip(requests, answers, strict=True):
        assert difference(request, answer) is None, (request.name, request.options)
    # Not only refusals are compared.
    assert sum("text" in answer for answer in answers) > len(answers) // 3


def write_model(folder: Path, config: dict[str, Any], files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_llada() / "tokenizer.json", folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


_TOKENS: Final = (
    "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ mask_token }}|{{ unk_token is defined }}|{{ image_token }}"
)
_CONFIG: Final = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
    "pad_token": None,
    "image_token": "<i>",
}
FOLDERS: Final[dict[str, tuple[dict[str, Any], dict[str, str]]]] = {
    "config": (_CONFIG | {"chat_template": _TOKENS}, {}),
    "own-file": (_CONFIG | {"chat_template": "config"}, {"chat_template.jinja": _TOKENS + "\n"}),
    "special-tokens-map": (
        _CONFIG | {"chat_template": _TOKENS},
        {"special_tokens_map.json": json.dumps({"mask_token": "<m>", "bos_token": {"content": "<b>"}})},
    ),
    "named": (
        _CONFIG
        | {
            "chat_template": [
                {"name": "default", "template": _TOKENS},
                {"name": "tool_use", "template": "{{ tools | length }}"},
            ]
        },
        {},
    ),
    "tools-file": (
        _CONFIG,
        {"chat_template.jinja": "default", "additional_chat_templates/tool_use.jinja": "{{ tools | length }}"},
    ),
    "extra-tokens": (_CONFIG | {"extra_special_tokens": {"image_token": "<j>"}, "chat_template": _TOKENS}, {}),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["without-tools", "with-tools"])
def test_a_models_folder_is_read_as_by_transformers(name: str, tools: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / name, *FOLDERS[name])
    messages = CONVERSATIONS["user"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    request = {"folder": str(folder), "messages": messages} | ({"tools": tools} if tools else {})
    with Tool(_TOOL) as tool:
        assert tool.ask(request) == {"text": expected}


class Tool:
    """render_chat, which answers one request after another."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | SANITIZER_OPTIONS | {"TZ": "UTC"},
        )

    def __enter__(self) -> Tool:
        return self

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def tool() -> Iterator[Tool]:
    with Tool(_TOOL) as started:
        yield started


VARIABLES: Final[dict[str, Any]] = {
    "s": "Hello, World",
    "empty": "",
    "u": "  caf\u00e9\u3000\u00df\u0130 \u03a3\u03a3\n",
    "lines": "a\nb\r\n\n c",
    "no": None,
    "t": True,
    "i": 3,
    "z": 0,
    "neg": -7,
    "x": 2.5,
    "big": 1e20,
    "l": [3, 1, 2],
    "el": [],
    "ls": ["b", "A", "c", "a"],
    "ld": [{"k": 1, "v": "x"}, {"k": 2}, {"k": None, "v": "y"}],
    "d": {"b": 1, "a": [1, None], "items": "I", "\u00e9": 'it\'s "q"'},
}
# fmt: off
LITERALS: Final = [
    "1", "0", "2", "-1", "3.5", "'a'", "''", "' x '", "\"it's\"", "none", "true", "false", "[]", "{}", "[1, 'a']",
    "(1, 2)", "{'a': 1, 'b': [1]}", "'%s-%d'", "'\\n'", "'l'", "missing",
]
FILTERS: Final = [
    "trim", "upper", "lower", "title", "capitalize", "length", "default('D')", "d('x', true)", "join(', ')",
    "join('-', attribute='k')", "first", "last", "list", "map('upper') | list", "map(attribute='k') | list",
    "map(attribute='v', default='-') | list", "select | list", "reject('none') | list", "select('string') | list",
    "selectattr('k') | list", "selectattr('v', 'defined') | list", "rejectattr('k', 'none') | list", "tojson",
    "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'), sort_keys=true)", "safe", "string",
    "int", "int(7)", "float", "abs", "replace('a', 'b')", "replace('l', 'LL', 1)", "items | list", "dictsort",
    "dictsort(reverse=true)", "sort", "sort(reverse=true)", "sort(case_sensitive=true)", "sort(attribute='k')",
    "unique | list", "indent", "indent(2, true)", "indent(width='>', blank=true)", "round", "round(1, 'ceil')", "min",
    "max", "sum", "reverse | list",
]
METHODS: Final = [
    "strip()", "lstrip()", "rstrip()", "strip('Hd ')", "split()", "split(' ')", "split('l', 1)", "rsplit('l', 1)",
    "rsplit(none, 1)", "splitlines()", "startswith('H')", "endswith(('d', 'x'))", "replace('l', 'r')",
    "replace('', '-')", "upper()", "lower()", "title()", "capitalize()", "join(ls)", "find('o')", "find('o', 5)",
    "rfind('o')", "count('l')", "get('a')", "get('q', 'D')", "items()", "keys()", "values()", "append(1)", "index(1)",
    "partition(',')", "removeprefix('He')", "isdigit()", "isupper()", "a", "b", "k", "items", "0",
]
TESTS: Final = [
    "defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable",
    "sequence", "true", "false", "odd", "even", "divisibleby 2", "equalto 3", "eq('a')", "ne 3", "gt 1", "lt(2)",
    "in [1, 2, 3]", "in 'abc'", "sameas none", "upper", "lower",
]
SUBSCRIPTS: Final = ["0", "-1", "1", "5", "'a'", "'items'"]
SLICES: Final = ["::-1", "1:", "-2:", ":2", "::2", "-1:0:-1", "0:3:2", "9:", ":-9"]
OPERATORS: Final = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
# fmt: on


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def joined(form: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map(lambda values: form % values)

    return st.one_of(
        joined("(%s) | %s", inner, st.sampled_from(FILTERS)),
        joined("(%s).%s", inner, st.sampled_from(METHODS)),
        joined("(%s)[%s]", inner, st.sampled_from(SUBSCRIPTS)),
        # Of what has none, Jinja makes an error, or nothing where it knows the value before it renders.
        joined(
            "(%s)[%s]", st.sampled_from(["s", "u", "l", "ls", "ld", "s.split()", "(1, 2, 3)"]), st.sampled_from(SLICES)
        ),
        joined("(%s is %s)", inner, st.sampled_from(TESTS)),
        joined("(%s is not %s)", inner, st.sampled_from(TESTS)),
        joined("(%s %s %s)", inner, st.sampled_from(OPERATORS), inner),
        joined("(%s < %s != %s)", inner, inner, inner),
        joined("(%s if %s else %s)", inner, inner, inner),
        joined("(%s if %s)", inner, inner),
        joined("[%s, %s]", inner, inner),
        joined("{'k': %s}", inner),
        joined("not %s", inner),
        joined("-(%s)", inner),
    )


EXPRESSIONS: Final = st.recursive(st.sampled_from([*VARIABLES, *LITERALS]), _larger, max_leaves=6)
_DASH: Final = st.sampled_from(["", "", "-", "+"])
_SPACES: Final = st.sampled_from(["", "", "\n", "  ", "\n  ", " \n\n", "text", " x\n"])
_LOOP: Final = ["index", "first", "last", "length", "revindex0", "previtem", "nextitem", "cycle(1, 2)", "changed(1)"]


@st.composite
def _statements(draw: st.DrawFn, depth: int = 2) -> str:
    def tag(text: str) -> str:
        return draw(_SPACES) + "{%" + draw(_DASH) + " " + text + " " + draw(_DASH) + "%}" + draw(_SPACES)

    def inner() -> str:
        return draw(_statements(depth=depth - 1))

    kinds = ["print", "comment", "text"] + (["if", "for", "set", "block", "macro"] if depth > 0 else [])
    match draw(st.sampled_from(kinds)):
        case "print":
            return "{{" + draw(st.sampled_from(["", "-"])) + " " + draw(EXPRESSIONS) + " }}" + draw(_SPACES)
        case "comment":
            return draw(_SPACES) + draw(st.sampled_from(["{# c #}", "{#- c -#}", "{#+ c\n +#}"])) + draw(_SPACES)
        case "if":
            return tag(f"if {draw(EXPRESSIONS)}") + inner() + tag("else") + inner() + tag("endif")
        case "for":
            source = draw(st.sampled_from(["l", "ls | reverse", "u", "d", "ld", "range(3)", "missing"]))
            condition = draw(st.sampled_from(["", "", " if y is string", " if y != 1", " if not ns.q"]))
            jump = draw(
                st.sampled_from(["", tag("if loop.index == 2") + tag("break") + tag("endif"), tag("set ns.q = true")])
            )
            shown = "{{ loop." + draw(st.sampled_from(_LOOP)) + " }}{{ y }}"
            return tag(f"for y in {source}{condition}") + shown + jump + inner() + tag("else") + "E" + tag("endfor")
        case "set":
            return tag(f"set {draw(st.sampled_from(['i', 'y', 'ns.a']))} = {draw(EXPRESSIONS)}") + "{{ i }}{{ y }}"
        case "block":
            return tag("set w" + draw(st.sampled_from(["", " | trim | upper"]))) + inner() + tag("endset") + "{{ w }}"
        case "macro":
            call = draw(st.sampled_from(["", "1", "a=3", "1, 2", "b=5", "i, b=x"]))
            return tag("macro m(a, b=1)") + "({{ a }},{{ b }})" + inner() + tag("endmacro") + "{{ m(" + call + ") }}"
        case _:
            return draw(_SPACES)


def assert_same(tool: Tool, text: str) -> None:
    messages = CONVERSATIONS["user"]
    options = {"add_generation_prompt": False, "tools": None, "variables": VARIABLES}
    expected = transformers_text(Request(Template("random", text), "user", messages, options))
    if expected is not None and (" at 0x" in expected or "<generator" in expected):
        return  # addresses of objects
    answer = tool.ask({"template": text, "messages": messages, "variables": SPECIAL_TOKENS | VARIABLES, "now": NOW})
    if answer.get("code") != "Unsupported":
        assert answer.get("text") == expected, answer


_PROFILE: Final = settings(
    max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@given(EXPRESSIONS)
@_PROFILE
def test_random_expressions_give_what_jinja_gives(tool: Tool, expression: str) -> None:
    assert_same(tool, "{{ " + expression + " }}")


@given(st.lists(_statements(), min_size=1, max_size=4))
@_PROFILE
def test_random_templates_give_what_jinja_gives(tool: Tool, statements: list[str]) -> None:
    assert_same(tool, "{% set ns = namespace(a=1, q=false) %}" + "".join(statements))


def test_the_case_of_every_letter_is_pythons(tool: Tool) -> None:
    # The tables of both are of Unicode 14 or later: newer letters differ by the library's age.
    text = "".join(chr(i) + " " for i in [*range(0x20, 0x2000), *range(0xFB00, 0xFB20), *range(0x10400, 0x10450)])
    options = {"add_generation_prompt": False, "tools": None, "variables": {"text": text}}
    template = "{{ text.upper() }}{{ text.lower() }}{{ text.title() }}{{ text | title }}"
    template += "{{ text.split() | map('capitalize') | join }}"
    request = Request(Template("case", template), "user", CONVERSATIONS["user"], options)
    answer = our_answers(_TOOL, [request])[0]
    assert answer["text"] == transformers_text(request)


@pytest.mark.skipif(SANITIZED_COMMAND is None, reason="DIFFULEX_EDGE_ASAN is not set")
@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_found_by_sanitizers(name: str) -> None:
    assert SANITIZED_COMMAND is not None
    with Tool(SANITIZED_COMMAND.parent / "render_chat") as sanitized:
        for messages in CONVERSATIONS.values():
            for cut in range(0, len(TEMPLATES[name]), 97):  # whole, and broken anywhere
                sanitized.ask({"template": TEMPLATES[name][cut:], "messages": messages, "tools": TOOLS})
                sanitized.ask({"template": TEMPLATES[name][:cut], "messages": messages, "tools": TOOLS})
