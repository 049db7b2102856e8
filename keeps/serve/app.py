"""The routes: health, models, chat completions and completions, behind a key, a size limit and a number of places."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from keeps.serve.backends import Backend
from keeps.serve.desk import Desk, Seat
from keeps.serve.fields import read_json
from keeps.serve.generations import Generation, Piece
from keeps.serve.limits import Limits
from keeps.serve.refusals import RefusedError, refusal
from keeps.serve.replies import END, ChatForm, CompletionForm, Form, event
from keeps.serve.requests import Generating, chat_request, completion_request

LOG = logging.getLogger("keeps.serve")
GONE = 499  # nobody reads it: the client has hung up
Handler = Callable[[Request], Awaitable[Response]]


class Served:
    """One model or pipeline under one name, as an ASGI application: :attr:`app`.

    Args:
        name: what clients call the model.
        created: when it was made, in seconds since 1970.
        key: what clients must send as ``Authorization: Bearer KEY``; "" where none is asked for.
        hosts: names under which the server may be addressed; none: under any. A page in a browser on this machine
            can have its own host name point here, and would be found out by it.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        limits: Limits,
        *,
        created: int = 0,
        key: str = "",
        hosts: Sequence[str] = (),
    ) -> None:
        self.backend, self.name, self.limits, self.created = backend, name, limits, created
        self.hosts = frozenset(hosts)
        self._key = hashlib.sha256(key.encode()).digest() if key else b""
        self.desk = Desk(limits.max_concurrency, limits.timeout)
        routes = [
            Route("/health", self._guarded(self.health, keyed=False)),
            Route("/v1/models", self._guarded(self.models)),
            Route("/v1/models/{name:path}", self._guarded(self.model)),
            Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self.completions), methods=["POST"]),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})

    async def health(self, request: Request) -> Response:
        """Whether requests are answered, and how many are."""
        del request
        taken, places = self.desk.taken, self.desk.places
        return JSONResponse({"status": "ok" if taken < places else "busy", "requests": taken, "places": places})

    async def models(self, request: Request) -> Response:
        """The one model that there is."""
        del request
        return JSONResponse({"object": "list", "data": [self._card]})

    async def model(self, request: Request) -> Response:
        """The model by its name."""
        self._check_name(request.path_params["name"])
        return JSONResponse(self._card)

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        most = self.limits.max_tokens
        asked = chat_request(await self._body(request), most, self.limits.temperature)
        return await self._reply(request, ChatForm, asked.generating, lambda: self.backend.chat(asked, most))

    async def completions(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        most = self.limits.max_tokens
        asked = completion_request(await self._body(request), most, self.limits.temperature)
        return await self._reply(request, CompletionForm, asked.generating, lambda: self.backend.complete(asked, most))

    @property
    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "keeps"}

    async def _reply(
        self,
        request: Request,
        kind: Callable[[str, Callable[[int], str], int | None], Form],
        wanted: Generating,
        begin: Callable[[], list[Generation]],
    ) -> Response:
        self._check_name(wanted.model)
        form = kind(self.name, self.backend.token_text, wanted.top)
        seat = self.desk.seat()
        try:
            generations = await seat.run(begin)
            unread = [stream for generation in generations if (stream := generation.unread) is not None]
            if unread and not await seat.read(unread, request.is_disconnected):
                raise ClientDisconnect
            if wanted.stream:
                made = _EventStream(_events(request, seat, form, generations, usage=wanted.usage), seat)
                seat = None  # the stream leaves it
                return made
            said = [await _said(request, seat, generation) for generation in generations]
        finally:
            if seat is not None:
                seat.leave()
        return JSONResponse(form.whole(generations, said))

    def _guarded(self, handler: Handler, *, keyed: bool = True) -> Handler:
        """``handler`` for those who may ask, with every error in the protocol's form."""

        async def call(request: Request) -> Response:
            try:
                self._check_host(request)
                if keyed:
                    self._check_key(request)
                return await handler(request)
            except ClientDisconnect:
                return Response(status_code=GONE)
            except Exception as error:
                found = refusal(error)
                _log(error, found)
                return JSONResponse(found.document, found.status, found.headers)

        return call

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self.hosts and name not in self.hosts:
            what = f'this server is not called "{name[:60]}"'
            raise RefusedError(what, mend="address it as it was started", code="wrong_host")

    def _check_key(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        found = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        if self._key and not (scheme.lower() == "bearer" and hmac.compare_digest(found, self._key)):
            what = "the API key is missing or wrong"
            mend, headers = "send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            raise RefusedError(what, mend=mend, status=401, code="invalid_api_key", headers=headers)

    def _check_name(self, name: str) -> None:
        if name != self.name:
            what, mend = f'there is no model "{name[:100]}" here', f'ask for "{self.name}"'
            raise RefusedError(what, mend=mend, status=404, code="model_not_found", param="model")

    async def _body(self, request: Request) -> dict[str, Any]:
        """The request's JSON, of which never more is read than the limit."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # other types a page of any origin may send from a browser without asking first
            raise RefusedError("the body is not announced as JSON", mend="send Content-Type: application/json")
        most, payload = self.limits.max_body, bytearray()
        too_large = RefusedError(
            f"the request is larger than {most} bytes",
            mend="send less at once",
            status=413,
            code="request_too_large",
            headers={"Connection": "close"},
        )
        if int(request.headers.get("content-length", "0")) > most:
            raise too_large
        try:
            async with asyncio.timeout(self.limits.timeout):
                async for chunk in request.stream():
                    payload += chunk
                    if len(payload) > most:
                        raise too_large
        except TimeoutError:
            raise RefusedError("the request took too long to arrive", status=408, code="timeout") from None
        return read_json(bytes(payload))


class _EventStream(StreamingResponse):
    """Leaves the seat however the stream ends, also where it never began."""

    def __init__(self, events: AsyncIterator[bytes], seat: Seat) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._seat = seat

    async def __call__(self, *args: Any) -> None:
        try:
            with contextlib.suppress(ClientDisconnect):
                await super().__call__(*args)
        finally:
            self._seat.leave()


async def _said(request: Request, seat: Seat, generation: Generation) -> list[Piece]:
    """All that a generation says, unless the client hangs up meanwhile."""
    found = []
    while not generation.finish:
        if await request.is_disconnected():
            raise ClientDisconnect
        found.append(await seat.run(generation.step))
    return found


async def _events(
    request: Request, seat: Seat, form: Form, generations: Sequence[Generation], *, usage: bool
) -> AsyncIterator[bytes]:
    """The events of a stream; what goes wrong on the way is an event too, since the state has been sent."""
    try:
        for index, generation in enumerate(generations):
            first = True
            while not generation.finish:
                if await request.is_disconnected():
                    return
                piece = await seat.run(generation.step)
                if piece.text or piece.tokens or first:
                    yield form.event(index, piece, generation, first=first)
                    first = False
            yield form.event(index, None, generation)
        if usage:
            yield form.usage(generations)
    except Exception as error:
        found = refusal(error)
        _log(error, found)
        yield event(found.document)
    yield END


def _log(error: Exception, found: RefusedError) -> None:
    """Where a failure of our own happened, without its message, which may hold what a client sent."""
    if found.status == 500:
        LOG.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)).rstrip())


async def _no_route(request: Request, error: Exception) -> Response:
    """An address or a way of asking that there is not."""
    del request
    status = error.status_code if isinstance(error, HTTPException) else 404
    what = "there is nothing at this address" if status == 404 else "this address is asked in another way"
    found = RefusedError(what, mend="see the routes of the server", status=status, code="unknown_url")
    return JSONResponse(found.document, status)
