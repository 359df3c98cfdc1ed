"""The chat template of a checkpoint: a program in Jinja's language that writes messages as one text.

Templates come with checkpoints, so they run in Jinja's sandbox, without files, network or Python's insides. They see
what transformers (5.23) shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from constrained_dg.errors import InputError, check, needs

#: The file of a checkpoint that holds its template.
TEMPLATE = "chat_template.jinja"
ROLES = ("system", "developer", "user", "assistant", "tool")
#: `role`, `content`, and what else a template reads.
Message = Mapping[str, Any]


class ChatTemplate:
    """A template, ready to render.

    Args:
        text: of the template.
        where: named in errors.
        tokens: special tokens that it may name, such as bos_token.

    Raises:
        InputError: the text is not a template.
    """

    def __init__(self, text: str, where: str, tokens: Mapping[str, str]) -> None:
        with needs("jinja2", "a chat template"):
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        self.where, self.tokens = where, dict(tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation()]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        try:
            self._template = environment.from_string(text)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InputError(f"{where} is not a template ({_line(error)})", "copy it again") from None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> str:
        """The text of messages with the model's turn opened.

        Args:
            thinking: what the template sees as `enable_thinking`; None: it sees nothing.

        Raises:
            InputError: the template refuses them, or they hold something else than texts, numbers, lists and tables.
        """
        from jinja2 import TemplateError

        values = {
            "messages": _plain(messages),
            "tools": _plain(tools),
            "documents": None,
            "add_generation_prompt": True,
        }
        values |= {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._template.render(values | self.tokens)
        # A template may do with values what it likes: add numbers to texts, look for missing items.
        except (
            TemplateError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as e:
            raise InputError(f"{self.where} does not take these messages ({_line(e)})", "see what it expects") from None


def check_messages(messages: Any) -> None:
    """Raise InputError unless messages are those of a chat: roles, and texts or lists of parts."""
    check(isinstance(messages, Sequence) and len(messages) > 0, f"messages are {messages!r}"[:200], "give a list")
    for number, message in enumerate(messages):
        where = f"message {number}"
        check(isinstance(message, Mapping), f"{where} is a {type(message).__name__}", "give role and content")
        role, content = message.get("role"), message.get("content")
        check(role in ROLES, f"{where} has the role {role!r}", f"give one of {', '.join(ROLES)}")
        parts = content if isinstance(content, list | tuple) else []
        fits = isinstance(content, str | list | tuple | None) and all(isinstance(part, Mapping) for part in parts)
        check(fits, f"{where} has the content {content!r}"[:200], "give a text, or a list of parts")
        for part in parts:
            kind, text = part.get("type"), part.get("text")
            known = kind in ("image", "video") or (kind == "text" and isinstance(text, str))
            check(known, f"{where} has a part {kind!r}", 'give {"type": "text", "text": ...}, "image" or "video"')


def _plain(value: Any) -> Any:
    """Data alone: of an object a template could call methods, such as one that writes a file."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise InputError(f"messages or tools hold a {type(value).__name__}", "give texts, numbers, lists and tables")


def _generation() -> Any:
    """The block {% generation %}, which marks for training what the model says: here its content alone."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter writes <, > and & as escapes.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
