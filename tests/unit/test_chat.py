"""Chat templates: rendered as transformers renders them, in a sandbox; and the chat format without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from constrained_dg.chat import ChatTemplate
from constrained_dg.errors import InputError
from constrained_dg.text import BOS, EOS, PAD, Tokenizer
from tests.textual import SPECIAL, VOCAB, raw_tokenizer

pytest.importorskip("jinja2")

TOKENS = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
#: Everything that templates of this family use: macros, namespaces, loop controls, filters, tests and white space.
TEMPLATE = """
{%- macro call(function) -%}
    {{- '<|tool_call>call:' + function.name + '{' -}}
    {%- for key, value in function.arguments | dictsort -%}
        {{ key }}:{{ value | tojson if value is not string else '<|"|>' ~ value ~ '<|"|>' }}{{ ',' if not loop.last }}
    {%- endfor -%}
    {{- '}<tool_call|>' -}}
{%- endmacro -%}
{{ bos_token }}
{%- set state = namespace(open=false, system='') %}
{%- if messages[0].role in ['system', 'developer'] %}
    {%- set state.system = messages[0].content | trim %}
{%- endif %}
{%- if state.system or tools or (enable_thinking is defined and enable_thinking) %}
<|turn>system
{% if enable_thinking is defined and enable_thinking %}
<|think|>
{% endif %}
{{ state.system }}
    {%- for tool in tools or [] %}<|tool>{{ tool | tojson }}<tool|>{% endfor %}
<turn|>
{% endif %}
{%- for message in messages %}
    {%- if loop.first and state.system %}{% continue %}{% endif %}
    {%- if message.role == 'tool' %}
        {{- '<|tool_response>' + message.content | string + '<tool_response|>' }}
        {%- continue %}
    {%- endif %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('a ' + message.role + ' speaks too late') }}
    {%- endif %}
<|turn>{{ 'model' if message.role == 'assistant' else 'user' }}
    {%- generation %}
{{ '\\n' }}
    {%- if message.content is string %}{{ message.content | trim }}
    {%- else %}
        {%- for part in message.content or [] %}
            {{- part.text | trim if part.type == 'text' else '<|' + part.type + '|>' }}
        {%- endfor %}
    {%- endif %}
    {%- for each in message.tool_calls or [] %}{{ call(each.function) }}{% endfor %}
    {%- endgeneration %}
    {%- set state.open = message.tool_calls is defined %}
    {%- if not state.open %}<turn|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt and not state.open %}<|turn>model
{% if enable_thinking is defined and not enable_thinking %}<|channel>thought
<channel|>{% endif %}
{%- endif %}"""
USER = {"role": "user", "content": " Who wrote <this> & that? \n"}
CALL = {"function": {"name": "look", "arguments": {"n": 3, "at": "here", "deep": [1, {"x": None}], "sure": True}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "description": "<é>"}}}
CHATS = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be brief.\n"}, USER],
    "developer": [{"role": "developer", "content": "Be brief."}, USER],
    "turns": [USER, {"role": "assistant", "content": "Me."}, USER],
    "pictures": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " what? "}, {"type": "video"}]}
    ],
    "call": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
    "answer": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "there", "name": "look"},
        USER,
    ],
}


@pytest.mark.parametrize("thinking", [None, False, True])
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["no tools", "tools"])
@pytest.mark.parametrize("chat", CHATS)
def test_a_template_is_rendered_as_transformers_does(chat: str, tools: list | None, thinking: bool | None) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    more = {} if thinking is None else {"enable_thinking": thinking}
    expected = utils.render_jinja_template(
        [CHATS[chat]], tools=tools, chat_template=TEMPLATE, add_generation_prompt=True, **TOKENS, **more
    )[0][0]
    found = ChatTemplate(TEMPLATE, "it", TOKENS).render(CHATS[chat], tools, thinking)
    assert found == expected and found.startswith(BOS)
    assert ("<|think|>" in found) == (thinking is True) and ("<é>" in found) == (tools is not None)


def checkpoint(folder: Path, template: str | None) -> Path:
    raw_tokenizer([*SPECIAL, "<|image|>", "<|video|>"]).save(str(folder / "tokenizer.json"))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_the_template_of_a_checkpoint_writes_its_chats(tmp_path: Path) -> None:
    kind = Tokenizer.load(
        checkpoint(tmp_path, "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% endfor %}"), VOCAB
    )
    assert kind.raw.decode(kind.chat("a", "b"), skip_special_tokens=False) == f"{BOS}[system][user]"
    turns = [("user", "a"), ("model", "b"), ("user", "c")]
    assert kind.raw.decode(kind.conversation(turns), skip_special_tokens=False) == f"{BOS}[user][assistant][user]"


def test_without_a_template_a_chat_with_pictures_is_written_all_the_same(tmp_path: Path) -> None:
    kind = Tokenizer.load(checkpoint(tmp_path, None), VOCAB)
    assert kind.written(CHATS["pictures"]) == f"{BOS}<|turn>user\n<|image|>what?<|video|><turn|>\n<|turn>model\n"
    assert kind.written(CHATS["developer"]) == kind.written(CHATS["system"])
    assert kind.messages(CHATS["turns"]) == kind.conversation(
        [("user", USER["content"]), ("model", "Me."), ("user", USER["content"])]
    )
    image = kind.raw.token_to_id("<|image|>")
    assert kind.messages(CHATS["pictures"]).count(image) == 1


@pytest.mark.parametrize(
    "messages, keywords, said",
    [
        ([], {}, r"messages are \[\]; give a list"),
        ([{"role": "user"}], {}, None),
        ([{"role": "poet", "content": "a"}], {}, "message 0 has the role 'poet'; give one of system"),
        ([USER, "a"], {}, "message 1 is a str; give role and content"),
        ([{"role": "user", "content": 3}], {}, "message 0 has the content 3; give a text, or a list of parts"),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "message 0 has a part 'audio'"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "message 0 has a part 'text'"),
        ([USER], {"tools": [TOOL]}, "tools without a chat template; copy the checkpoint's chat_template.jinja"),
        ([USER], {"thinking": True}, "thinking without a chat template"),
        (CHATS["call"], {}, "tool_calls without a chat template"),
        ([USER, {"role": "tool", "content": "a"}], {}, "the role tool without a chat template"),
    ],
)
def test_bad_messages_are_named(tmp_path: Path, messages: list, keywords: dict, said: str | None) -> None:
    kind = Tokenizer.load(checkpoint(tmp_path, None), VOCAB)
    if said is None:
        assert kind.written(messages).endswith("<|turn>user\n<turn|>\n<|turn>model\n")
        return
    with pytest.raises(InputError, match=said):
        kind.messages(messages, **keywords)


@pytest.mark.parametrize(
    "template, said",
    [
        ("{{ raise_exception('only one turn') }}", r"does not take these messages \(only one turn\)"),
        ("{{ messages[0].content + 1 }}", "does not take these messages"),
        ("{{ messages[7].role.x.y }}", "does not take these messages"),
        ("{{ ''.__class__.__mro__ }}", "does not take these messages"),
        ("{{ messages.append(1) }}", "does not take these messages"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "does not take these messages"),
        ("{% include 'tokenizer.json' %}", "does not take these messages"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "does not take these messages"),
    ],
)
def test_a_template_stays_in_its_sandbox(tmp_path: Path, template: str, said: str) -> None:
    kind = Tokenizer.load(checkpoint(tmp_path, template), VOCAB)
    with pytest.raises(InputError, match=said):
        kind.messages([USER])


def test_a_template_sees_data_and_no_objects(tmp_path: Path) -> None:
    kind = Tokenizer.load(checkpoint(tmp_path, "{{ messages[0].content[0].image.unlink() }}"), VOCAB)
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="messages or tools hold a PosixPath; give texts"):
        kind.messages([{"role": "user", "content": [{"type": "image", "image": path}]}])
    assert path.exists()


def test_a_broken_template_is_named_when_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"chat_template\.jinja is not a template .*copy it again"):
        Tokenizer.load(checkpoint(tmp_path, "{% if %}"), VOCAB)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"chat_template\.jinja cannot be read"):
        Tokenizer.load(tmp_path, VOCAB)


def test_json_in_a_template_is_not_escaped_for_pages() -> None:
    template = ChatTemplate("{{ tools | tojson(indent=1) }}", "it", TOKENS)
    assert json.loads(template.render([USER], [TOOL])) == [TOOL] and "<é>" in template.render([USER], [TOOL])
