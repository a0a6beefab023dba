"""What a model wrote to give an answer, by the templates of four families."""

import json

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pytest_agentperf.vocabularies.written import Spoken, written

QWEN = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% if m.reasoning_content or loop.last %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if begins %}<|im_start|>assistant
{% endif %}"""
THINKS_AT_ONCE = """\
{%- for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>
{{ m.reasoning }}</think>{% endif %}{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}
{%- endfor %}{% if begins %}<|assistant|><think>
{% endif %}"""
DROPS = """\
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}
{%- if begins %}<|assistant|>{% endif %}"""
HINTS = """\
{%- for m in messages %}<|{{ m.role }}|>
{% if m.reasoning %}<think>{{ m.reasoning }}</think>{% endif %}{{ m.content }}<|end|>
{%- endfor %}{% if begins %}<|assistant|>
<|hint|>{% endif %}"""
WANTS_TEXT = """\
{%- for m in messages %}<|{{ m.role }}|>{% if m.content is not none %}{{ m.content }}{% else %}
{%- for c in m.tool_calls %}<call>{{ c.function.name + ':' + c.function.arguments }}</call>
{%- endfor %}{% endif %}<|end|>{% endfor %}{% if begins %}<|assistant|>{% endif %}"""
CALL = ("read_file", '{"path": "a.py"}')
WRITTEN_CALL = '{"name": "read_file", "arguments": {"path": "a.py"}}'


def by(template: str, spoken: Spoken) -> str | None:
    environment = ImmutableSandboxedEnvironment()
    # As transformers and vLLM have it; jinja's own writes for HTML.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    compiled = environment.from_string(template)
    return written(lambda m, begins: compiled.render(messages=m, begins=begins), spoken)


def spoken(
    reasoning: str = "", content: str = "", *calls: tuple[str, str], ended: bool = True
) -> Spoken:
    return Spoken(reasoning=reasoning, content=content, calls=calls, ended=ended)


@pytest.mark.parametrize(
    ("template", "answer", "text"),
    [
        (QWEN, spoken("Hm.", "Yes."), "<think>\nHm.\n</think>\n\nYes.<|im_end|>"),
        (QWEN, spoken("", "Yes."), "Yes.<|im_end|>"),
        (QWEN, spoken("Hm.", "", CALL),
         "<think>\nHm.\n</think>\n\n\n<tool_call>\n" + WRITTEN_CALL + "\n</tool_call><|im_end|>"),
        (QWEN, spoken("Hm.", "Ye", ended=False), "<think>\nHm.\n</think>\n\nYe"),
        (QWEN, spoken("H", ended=False), "<think>\nH"),
        (THINKS_AT_ONCE, spoken("Hm.", "Yes."), "Hm.</think>Yes.<|end|>"),
        (HINTS, spoken("Hm.", "Yes."), "<think>Hm.</think>Yes.<|end|>"),
        (DROPS, spoken("", "Yes."), "Yes.<|end|>"),
        (DROPS, spoken("Hm.", "Yes."), None),
        (DROPS, spoken("", "Yes.", CALL), None),
        (WANTS_TEXT, spoken("", "", CALL), '<call>read_file:{"path": "a.py"}</call><|end|>'),
        (WANTS_TEXT, spoken("", "", ("f", "{broken")), "<call>f:{broken</call><|end|>"),
        (QWEN, spoken("", "", ("f", '{"a":1,"b":"ä"}')),
         '<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": "ä"}}\n</tool_call><|im_end|>'),
    ],
    ids=[
        "reasoning and content",
        "content without the empty reasoning that only a past answer has",
        "reasoning and a call",
        "an answer that was cut in its content",
        "an answer that was cut in its reasoning",
        "reasoning that the prompt has begun",
        "a prompt that ends in a mark which begins as the answer does",
        "content",
        "reasoning that the template drops",
        "a call that the template drops",
        "a call by a template that wants content to be null and arguments to be text",
        "arguments that are no JSON",
        "arguments that the template writes anew",
    ],
)  # fmt: skip
def test_is_written(template: str, answer: Spoken, text: str | None):
    assert by(template, answer) == text
