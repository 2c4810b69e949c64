"""Chat templates are rendered as transformers does it, and cannot leave the sandbox."""

import pytest

from edgeai.engines.template import ChatTemplate, as_dicts
from edgeai.errors import ModelUnsupported
from edgeai.types import Image, Message, Tool, ToolCall

MESSAGES, _ = as_dicts([Message("user", "Hi")])

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ messages.append.__self__.__class__.__base__ }}{{ raise_exception.__globals__ }}",
    "{{ messages.append({}) }}",
    "{{ 'x' * 10**12 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ range(10**9) | list }}",
    "{% for a in range(10) %}{{ (lambda: 0)() }}{% endfor %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_an_escape_from_the_sandbox_is_refused(source: str) -> None:
    """A hostile template is a ModelUnsupported error and runs nothing."""
    with pytest.raises(ModelUnsupported, match="chat template"):
        ChatTemplate(source).render(MESSAGES)


def test_format_strings_reach_no_attributes() -> None:
    """``str.format`` inside a template does not open the objects behind the messages."""
    assert "class" not in ChatTemplate("{{ '{0.__class__.__init__}'.format(messages) }}").render(MESSAGES)


@pytest.mark.parametrize("source", ["{% for %}", "{{ nothing.at.all }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}"])
def test_a_faulty_template_is_unsupported(source: str) -> None:
    """Mistakes in a template are the model's fault and carry the reason."""
    with pytest.raises(ModelUnsupported) as caught:
        ChatTemplate(source).render(MESSAGES)
    assert caught.value.why


def test_a_template_can_refuse_messages() -> None:
    """What a template says by raise_exception is the reason that the user sees."""
    template = ChatTemplate("{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(ModelUnsupported, match="Roles must alternate"):
        template.render(MESSAGES)


def test_whitespace_and_tokens_are_as_in_transformers() -> None:
    """Blocks leave no newline or indentation; bos and eos and the generation prompt are given."""
    source = """{{ bos_token }}
    {% for m in messages %}
        {% if loop.index > 5 %}{% break %}{% endif %}
[{{ m.role }}]{{ m.content }}{{ eos_token }}
    {% endfor %}
{% if add_generation_prompt %}[assistant]{% endif %}"""
    assert ChatTemplate(source, bos="<s>", eos="</s>").render(MESSAGES) == "<s>\n[user]Hi</s>\n[assistant]"


def test_tojson_keeps_unicode_and_order() -> None:
    """Tools are written as plain JSON, not escaped for HTML."""
    tool = Tool(name="söng", description="<a>", parameters={"type": "object", "properties": {}})
    messages, tools = as_dicts([Message("user", "Hi")], [tool])
    text = ChatTemplate("{% for t in tools %}{{ t.function | tojson }}{% endfor %}").render(messages, tools)
    assert text.startswith('{"name": "söng", "description": "<a>", "parameters":')


def test_calls_and_their_results_reach_the_template() -> None:
    """Messages with tool calls have the form that templates know."""
    call = ToolCall(name="add", arguments={"a": 1}, id="call_7")
    messages, _ = as_dicts(
        [Message("assistant", tool_calls=(call,)), Message("tool", "2", tool_call_id="call_7")]
    )
    source = (
        "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
        "{{ messages[0].tool_calls[0].id == messages[1].tool_call_id }}"
    )
    assert ChatTemplate(source).render(messages) == '{"a": 1}True'


def test_images_are_unsupported() -> None:
    """An image is never dropped silently."""
    with pytest.raises(ModelUnsupported, match="images"):
        as_dicts([Message("user", [Image(data=b"PNG")])])
