// The language of templates, example by example; tests/integration/test_chat_templates.py compares with Jinja itself.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "diffulex_edge/chat_template.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

std::string rendered(const std::string& text) {
  return ChatTemplate(text).render(R"([{"role": "user", "content": " H\u00e9llo "}])");
}

std::string value_of(const std::string& expression) { return rendered("{{ " + expression + " }}"); }

struct Case {
  const char* text;
  const char* result;
};

class Language : public ::testing::TestWithParam<Case> {};

TEST_P(Language, GivesWhatJinjaGives) { EXPECT_EQ(rendered(GetParam().text), GetParam().result) << GetParam().text; }

INSTANTIATE_TEST_SUITE_P(Spaces, Language,
                         ::testing::Values(Case{"a\n", "a"}, Case{"a\n\n", "a\n"}, Case{"a\r\nb\rc", "a\nb\nc"},
                                           Case{"{% if 1 %}\na\n{% endif %}\nb", "a\nb"},
                                           Case{"  {% if 1 %}\n  a\n  {% endif %}\n", "  a\n"},
                                           Case{"x  {% if 1 %}a{% endif %}", "x  a"},
                                           Case{"  {%+ if 1 %}a{% endif +%}\nb", "  a\nb"},
                                           Case{" a {{- ' b ' -}} c ", " a b c "},
                                           Case{"  {# c #}\nb {#- d -#} e", "be"}, Case{"  {{ 1 }}\n  x", "  1\n  x"},
                                           Case{"{% raw %}\n{{ a }} {% endraw %}\nb", "\n{{ a }} b"},
                                           Case{"{%- raw -%} {% x {%- endraw -%} b", "{% xb"}));

INSTANTIATE_TEST_SUITE_P(
    Loops, Language,
    ::testing::Values(
        Case{"{% for x in [1,2,3] %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }} {% endfor %}",
             "1TrueFalse2 2FalseFalse1 3FalseTrue0 "},
        Case{"{% for x in 'ab' %}[{{ loop.previtem }}{{ x }}{{ loop.nextitem }}]{% endfor %}", "[ab][ab]"},
        Case{"{% for x in [] %}{% else %}none{% endfor %}", "none"},
        Case{"{% for x in [1] %}{% break %}{% else %}Jinja's own{% endfor %}", "Jinja's own"},
        Case{"{% for x in [1,2,3,4] if x is even %}{{ x }}/{{ loop.length }} {% endfor %}", "2/2 4/2 "},
        Case{"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"},
        Case{"{% for x in range(9) %}{% if x == 1 %}{% continue %}{% elif x == 3 %}{% break %}{% endif %}{{ x }}{% "
             "endfor %}",
             "02"},
        Case{"{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = 2 %}{% endfor %}{{ x }}", "111"},
        Case{"{% set n = namespace(f=false) %}{% for x in [1,2,3] if not n.f %}{{ x }}{% set n.f = true %}{% endfor %}",
             "1"},
        Case{"{% for x in nothing %}{{ x }}{% endfor %}-", "-"}));

INSTANTIATE_TEST_SUITE_P(
    Statements, Language,
    ::testing::Values(
        Case{"{% if 0 %}a{% elif '' %}b{% else %}c{% endif %}", "c"},
        Case{"{% if 1 %}{% set a = 5 %}{% endif %}{{ a }}", "5"}, Case{"{% set a, b = 1, [2] %}{{ b }}{{ a }}", "[2]1"},
        Case{"{% set a %} x {% endset %}{{ a | length }}{% set b | trim | upper %} x {% endset %}{{ b }}", "3X"},
        Case{"{% macro m(a, b=a ~ '!') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}{{ m() }}", "11!32!"},
        Case{"{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}", "<1>"},
        Case{"{% filter upper %}a{{ 'b' }}{% endfilter %}", "AB"},
        Case{"{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "12"},
        Case{"{% generation %}\n{% set g = 1 %}{{ g }}{% endgeneration %}\n{{ g }}", "1"}));

struct Expressions {
  const char* name;
  std::vector<std::pair<const char*, const char*>> cases;
};

class LanguageExpressions : public ::testing::TestWithParam<Expressions> {};

TEST_P(LanguageExpressions, GiveWhatPythonGives) {
  for (const auto& [expression, result] : GetParam().cases) {
    EXPECT_EQ(value_of(expression), result) << expression;
  }
}

const std::vector<Expressions>& all_expressions() {
  static const std::vector<Expressions> all = {
      {"Arithmetic",
       {{"7 // 2, -7 // 2, 7 % -3, -7 % 3", "(3, -4, -2, 2)"},
        {"7 / 2, 6 / 2, 2 ** 10, 2 ** -1", "(3.5, 3.0, 1024, 0.5)"},
        {"-7.5 // 2, -7.5 % 2, 1 - 0.5", "(-4.0, 0.5, 0.5)"},
        {"'ab' * 2 + 'c', [1] + [2] * 2, true + 1", "('ababc', [1, 2, 2], 2)"},
        {"-2 ** 2, 2 ** 3 ** 2, 1 ~ 2 * 3", "(4, 64, '16')"}}},
      {"Comparisons",
       {{"1 < 2 < 3, 1 < 3 < 2, 1 == 1.0, 'a' < 'b', [1, 2] < [1, 3]", "(True, False, True, True, True)"},
        {"'l' in 'hello', 1 not in [2], 'k' in {'k': 1}, (1, 2) == [1, 2]", "(True, True, True, False)"},
        {"not 1 == 2, 0 or 'x', 1 and [], none == none", "(True, 'x', [], True)"},
        {"'a' if false, ('a' if false) is defined, 1 if 2 else 3", "(Undefined, False, 1)"}}},
      {"Texts",
       {{"'%s: %03d' % ('a', 7), '%%'", "('a: 007', '%%')"},
        {R"('a\nb\u00e9\x41\\' "c")", "a\nb\u00e9A\\c"},
        {R"(['it\'s', "\"q\"", 'tab\t', '\u200b'])", R"(["it's", '"q"', 'tab\t', '\u200b'])"},
        {"'{} {0}'.format(1) if false else '{} {x}'.format(1, x=2)", "1 2"}}},
      {"Numbers",
       {{"1.0, 1e16, 1e15, 1.5e-5, 0.0001, 123456789.123, 1e300 * 1e10, -0.0",
         "(1.0, 1e+16, 1000000000000000.0, 1.5e-05, 0.0001, 123456789.123, inf, -0.0)"},
        {"2.5 | round, 3.5 | round, 2.675 | round(2), 2 | round, 2.1 | round(0, 'ceil')", "(2.0, 4.0, 2.67, 2, 3.0)"},
        {"' 42 ' | int, '42.9' | int, 'x' | int(7), '0x1f' | int(base=16), '1e3' | float", "(42, 42, 7, 31, 1000.0)"}}},
      {"Items",
       {{"'h\u00e9llo'[1], 'h\u00e9llo'[::-1], 'abc'[-2:], [1, 2, 3][::-2], [1][5] is defined",
         "('\u00e9', 'oll\u00e9h', 'bc', [3, 1], False)"},
        {"{'items': 1}['items'], {'a': {'b': [7]}}.a.b[0], (1, 2).1, none.x is defined", "(1, 7, 2, False)"},
        {"{'b': 1, 'a': 2}, {'b': 1, 'b': 2}, {1: none}", "({'b': 1, 'a': 2}, {'b': 2}, {1: None})"}}},
      {"Methods",
       {{"' a '.strip() ~ '|', 'xxaxx'.lstrip('x'), '\u3000a\u00a0'.rstrip()", R"(('a|', 'axx', '\u3000a'))"},
        {"'a  b c '.split(), 'a,b,c'.split(',', 1), 'a b c '.rsplit(none, 1), 'a\\nb\\r\\n'.splitlines()",
         "(['a', 'b', 'c'], ['a', 'b,c'], ['a b', 'c'], ['a', 'b'])"},
        {"'aXbX'.replace('X', '-', 1), 'abc'.startswith(('x', 'a')), 'abc'.endswith('bc'), 'abcb'.find('b', 2)",
         "('a-bX', True, True, 3)"},
        {"'stra\u00dfe'.upper(), '\u03a3\u0391\u03a3'.lower(), \"it's ab\".title(), 'hELLO'.capitalize()",
         "('STRASSE', '\u03c3\u03b1\u03c2', \"It'S Ab\", 'Hello')"},
        {"{'a': 1}.get('b'), {'a': 1}.get('b', 2), {'a': 1}.keys() | list, '-'.join(['a', 'b'])",
         "(None, 2, ['a'], 'a-b')"}}},
      {"Filters",
       {{"[3, 1, 2] | sort, ['b', 'A'] | sort, {'b': 1, 'A': 2} | dictsort, [1, 2, 2] | unique | list",
         "([1, 2, 3], ['A', 'b'], [('A', 2), ('b', 1)], [1, 2])"},
        {"[{'a': 1}, {'a': 2}] | map(attribute='a') | join('+'), ['a'] | map('upper') | list", "('1+2', ['A'])"},
        {"[{'a': 1}, {}] | selectattr('a', 'defined') | list, [0, 1] | select | list, [1, 'a'] | reject('string') | "
         "list",
         "([{'a': 1}], [1], [1])"},
        {"nothing | default('x'), '' | d('x'), '' | d('x', true), nothing | length", "('x', '', 'x', 0)"},
        {"'a\\n\\nb' | indent(2), 'hello world-x' | title, 'ab' | first, [1, 2] | last",
         "('a\\n\\n  b', 'Hello World-X', 'a', 2)"},
        {"('<a>' | safe) + '<b>'", "<a>&lt;b&gt;"},
        {"[1, [2]] | tojson, {'\u00e9': '\"\\n'} | tojson(ensure_ascii=true), [1.5, none] | tojson(separators=(',', "
         "':'))",
         R"(('[1, [2]]', '{"\\u00e9": "\\"\\n"}', '[1.5,null]'))"},
        {"{'a': [], 'b': [1, {}]} | tojson(indent=1)", "{\n \"a\": [],\n \"b\": [\n  1,\n  {}\n ]\n}"}}},
      {"Tests",
       {{"1 is number, true is number, 1.0 is integer, true is integer, 'a' is string",
         "(True, True, False, False, True)"},
        {"{} is mapping, [] is sequence, 'a' is iterable, 1 is iterable, none is none",
         "(True, True, True, False, True)"},
        {"3 is divisibleby 3, 3 is odd, 1 is in [1], 'A' is upper, 2 is gt 1, 1 is not eq 1",
         "(True, True, True, True, True, False)"}}},
  };
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, LanguageExpressions, ::testing::ValuesIn(all_expressions()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace diffulex_edge
