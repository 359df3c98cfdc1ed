"""The bodies of requests. What is not in them is refused, and what OpenAI has beyond them is refused with a reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

#: Fields of OpenAI's endpoints that a diffusion model cannot honour, and why.
_SCHEDULE = "the sampler's own schedule decides how bold a pass is; choose a sampler with the field sampler"
_ONE = "a canvas is drawn at once, so there is no probability of one token behind another"
_COUNTS = "tokens are not written one after the other, so they cannot be counted while writing"
NOT_HERE = {
    **dict.fromkeys(("temperature", "top_p", "top_k", "min_p"), _SCHEDULE),
    **dict.fromkeys(("logprobs", "top_logprobs", "echo"), _ONE),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "repetition_penalty"), _COUNTS),
    "logit_bias": "give a rule as response_format",
    "best_of": "use n, and choose among the choices",
    "suffix": "the completion endpoint only continues a text",
    **dict.fromkeys(
        ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"), "no tools are known"
    ),
    **dict.fromkeys(
        ("modalities", "audio", "prediction", "web_search_options"), "texts and images are read, and texts written"
    ),
    **dict.fromkeys(("reasoning_effort", "verbosity"), "the model has one way to answer"),
    **dict.fromkeys(("store", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"), "nothing is kept"),
}
#: Parts of a message that are not read.
_PARTS = ("input_image", "image", "input_audio", "file", "video_url")

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Limit = Annotated[int, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Strictly(BaseModel):
    """Unknown fields are refused; a field that is null counts as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}


class TextPart(Strictly):
    type: Literal["text"]
    text: str


class ImageUrl(Strictly):
    """A picture as `data:image/png;base64,...`: nothing is fetched."""

    url: str
    detail: Literal["auto"] = "auto"


class ImagePart(Strictly):
    type: Literal["image_url"]
    image_url: ImageUrl


def _known(values: Any) -> Any:
    kind = values.get("type") if isinstance(values, dict) else None
    if isinstance(kind, str) and kind in _PARTS:
        raise PydanticCustomError("not_read", "{kind} is not read: give text and image_url", {"kind": kind})
    return values


Part = Annotated[Annotated[TextPart | ImagePart, Field(discriminator="type")], BeforeValidator(_known)]


class Message(Strictly):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class AnyText(Strictly):
    type: Literal["text"]


class AnyJson(Strictly):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strictly):
    name: str = "answer"
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool = True
    description: str = ""


class JsonSchema(Strictly):
    """JSON under a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class Pattern(Strictly):
    """A text that a regular expression matches whole; an extension."""

    type: Literal["regex"]
    pattern: str


class StreamOptions(Strictly):
    include_usage: bool = False


class TextRequest(Strictly):
    """What both text endpoints take. `sampler` and `drafts` are extensions."""

    model: str
    n: int = Field(1, ge=1, le=64)
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: Annotated[AnyText | AnyJson | JsonSchema | Pattern, Field(discriminator="type")] | None = None
    user: str = ""
    sampler: str | None = Field(None, description="the name of a sampler")
    drafts: bool = Field(False, description="with stream: the canvas after each pass, as chunks with `draft`")

    @model_validator(mode="before")
    @classmethod
    def _honours(cls, values: Any) -> Any:
        given = [] if not isinstance(values, dict) else [key for key in NOT_HERE if values.get(key) is not None]
        for key in given:
            hint = {"field": key, "why": NOT_HERE[key]}
            raise PydanticCustomError("not_here", "{field} is not served: {why}; leave it out", hint)
        return values

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.drafts and not self.stream:
            raise PydanticCustomError("drafts", "drafts are part of a stream; give stream=true")
        return self

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer."""
        return None


class ChatRequest(TextRequest):
    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None

    @property
    def limit(self) -> int | None:
        given = [each for each in (self.max_tokens, self.max_completion_tokens) if each is not None]
        return min(given, default=None)


class CompletionRequest(TextRequest):
    """`prompt` is a text, whose special tokens count as such, or tokens; or several of either."""

    prompt: str | Tokens | list[str] | list[Tokens]
    max_tokens: Limit | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens


class SolveRequest(Strictly):
    """A problem in the task's own text form."""

    problem: str
    model: str | None = Field(None, description="one of /v1/models; by default the first that solves problems")
    sampler: str | None = None
    seed: Seed | None = None
    stream: bool = False
