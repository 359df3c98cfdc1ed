"""What a request is answered that cannot be served: {"error": {message, type, param, code}}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error"}
_TYPES |= {429: "rate_limit_error", 503: "server_error", 500: "server_error"}


class Fault(BaseModel):
    """What is wrong, and what would work."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """The body of every answer of status 4xx and 5xx."""

    error: Fault


class Refused(Exception):
    """A request that is not served.

    Args:
        status: of HTTP.
        message: what is wrong, and what would work.
        param: the field of the request, "messages.0.content".
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        fault = Fault(message=self.message, type=kind, param=self.param, code=self.code)
        return Failure(error=fault).model_dump()

    def response(self) -> Response:
        headers = {}
        if self.status == 429:
            headers["Retry-After"] = "1"
        if self.status == 408:
            headers["x-should-retry"] = "false"  # for OpenAI's clients: the same request would take as long again
        return json_response(self.body(), self.status, headers)


def timed_out(seconds: float) -> Refused:
    message = f"the answer took more than {seconds:g} seconds; ask for less, or raise the server's time_limit"
    return Refused(408, message, code="time_limit")


def internal() -> Refused:
    return Refused(500, "the server failed; its log says why", code="internal")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII, so that any text can be sent, halves of surrogate pairs too."""
    return Response(json.dumps(content), status, headers, "application/json")


def of_validation(error: RequestValidationError) -> Refused:
    """One thing that is wrong with a body; of a union of types, what is wrong with the one that fits best."""
    first = max(error.errors(), key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON ({first['ctx']['error']}); send a JSON object", code="not_json")
    if first["loc"] == ("body",) and first["type"].endswith("_type"):
        hint = "send one, with the header Content-Type: application/json"
        return Refused(400, f"the body is no JSON object; {hint}", code=first["type"])
    param = first.get("ctx", {}).get("field") or _field(first["loc"][1:], error.body)
    message = "there is no such field; leave it out" if first["type"] == "extra_forbidden" else first["msg"]
    return Refused(400, f"{param or 'the body'}: {message}", param, first["type"])


def _field(path: Sequence[str | int], body: Any) -> str | None:
    """The field that a path of pydantic's leads to: it also names types of a union, which no body holds."""
    found: list[str] = []
    value = body
    for place, part in enumerate(path, 1):
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]  # type: ignore[index]  # mypy takes the two cases above for one
            found.append(str(part))
        elif place == len(path) and isinstance(value, dict) and str(part).isidentifier():
            found.append(str(part))  # a field that is missing
    return ".".join(found) or None


def of_http(error: HTTPException) -> Refused:
    """What the framework refuses: unknown paths and methods, bodies that cannot be read."""
    said = {
        400: "the body cannot be read; send JSON in UTF-8, not nested deeply, without numbers of over 4,300 digits",
        404: "no such path; /openapi.json lists them",
        405: "no such method for this path; /openapi.json lists them",
    }
    return Refused(error.status_code, said.get(error.status_code, str(error.detail)), code="http")
