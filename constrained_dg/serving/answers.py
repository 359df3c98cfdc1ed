"""The bodies of answers, as OpenAI's clients read them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import constrained_dg
from constrained_dg.serving.jobs import Result


class Bodies:
    """The bodies of the answer to one request: whole, or in chunks.

    Args:
        chat: for /v1/chat/completions, else for /v1/completions.
        model: its name.
        seed: of the request; sent, since an answer can be had again with it.
        prompt_tokens: of all prompts; one with several choices counts once.
    """

    def __init__(self, chat: bool, model: str, seed: int, prompt_tokens: int) -> None:
        self.chat, self.prompt_tokens = chat, prompt_tokens
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "seed": seed,
            "system_fingerprint": f"constrained_dg {constrained_dg.__version__}",
        }

    def _body(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return self.head | {"object": kind if self.chat else "text_completion", "choices": choices} | more

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        choices = []
        for index, result in enumerate(results):
            text = result.values["text"]
            said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
            reason = result.values["finish_reason"]
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": reason})
        return self._body("chat.completion", choices, usage=self._usage(results))

    def begin(self, index: int) -> dict[str, Any] | None:
        """The first chunk of a choice; a completion has none."""
        return self.piece(index, "", role="assistant") if self.chat else None

    def piece(self, index: int, text: str, reason: str | None = None, **more: str) -> dict[str, Any]:
        """A chunk with more of a choice; with a reason its last one."""
        content = {"content": text} if text or not reason else {}
        said: dict[str, Any] = {"delta": {**more, **content}} if self.chat else {"text": text}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
        return self._body("chat.completion.chunk", [choice])

    def extension(self, name: str, index: int, values: dict[str, Any]) -> dict[str, Any]:
        """A chunk without choices, which readers that do not know drafts pass over."""
        return self._body("chat.completion.chunk", [], **{name: {"index": index, **values}})

    def usage(self, results: Sequence[Result]) -> dict[str, Any]:
        return self._body("chat.completion.chunk", [], usage=self._usage(results))

    def _usage(self, results: Sequence[Result]) -> dict[str, Any]:
        tokens, passes = (sum(result.values[key] for result in results) for key in ("completion_tokens", "passes"))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "passes": passes,
            "tokens_per_pass": tokens / passes if passes else 0.0,
        }
