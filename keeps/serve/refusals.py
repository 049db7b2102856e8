"""What a server refuses, as an error and in the JSON that clients of the OpenAI protocol read."""

from __future__ import annotations

from typing import Any

from keeps.errors import ContextLengthError, KeepsError, RecordError, RequestError, SettingsError

KINDS = {  # state of HTTP -> the ``type`` that clients sort errors by
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
BAD_INPUT = (RecordError, ContextLengthError, SettingsError)  # what a model raises at a request that makes no sense


class RefusedError(RequestError):
    """A request that is refused.

    Args:
        what, mend: as in every error of keeps.
        status: state of HTTP.
        code: a word for programs, such as ``model_not_found``.
        param: the field of the request that is wrong.
        headers: sent with the refusal, such as ``Retry-After``.
    """

    def __init__(
        self,
        what: str,
        *,
        mend: str = "",
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(what, where=param or "", mend=mend)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}

    @property
    def document(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        kind = KINDS.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal(error: Exception) -> RefusedError:
    """How any error reaches the client: what was wrong with the request, or that the server failed, without details.

    >>> refusal(SettingsError("top_p is 2", mend="choose less")).status, refusal(ZeroDivisionError("secret")).status
    (400, 500)
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, ContextLengthError):
        return RefusedError(error.what, mend=error.mend, code="context_length_exceeded")
    if isinstance(error, BAD_INPUT):
        return RefusedError(error.what, mend=error.mend)
    if isinstance(error, KeepsError):
        return RefusedError(error.what, mend="try again later", status=503, code="unavailable")
    return RefusedError("the server failed", mend="see its log", status=500, code="internal_error")
