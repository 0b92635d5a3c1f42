"""The web page of `labelkit review` and what it asks for. Every address begins with the session's token; nothing is
loaded from elsewhere, and texts are only ever shown as text.
"""

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from labelkit.errors import UsageError
from labelkit.judging.prompts import Prompt
from labelkit.review.session import Review
from labelkit.storage.shipped import SHIPPED

PAGE = SHIPPED / "review.html"
LOCAL = ("127.0.0.1", "localhost")
"""Host names that the page answers to: another name that leads here is somebody else's page asking."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(session: Review, prompt: Prompt, token: str, done: asyncio.Event) -> web.Application:
    """The routes of a session; `done` is set when the person is."""

    async def page(request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        text = PAGE.read_text(encoding="utf-8").replace("__NONCE__", nonce)
        facts = json.dumps({"criteria": criteria(prompt), "start": session.next() or 0}).replace("<", "\\u003c")
        policy = f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        headers = {"Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
        return web.Response(text=text.replace("__FACTS__", facts), content_type="text/html", headers=headers)

    async def pair(request: web.Request) -> web.Response:
        return web.json_response(session.state(index_of(request.match_info, session)))

    async def grade(request: web.Request) -> web.Response:
        index, asked = index_of(request.match_info, session), await request.json()
        if asked.get("grade") not in prompt.label_texts:
            raise web.HTTPBadRequest(text="no such grade")
        session.grade(index, asked["grade"])
        return web.json_response(session.state(index))

    async def show(request: web.Request) -> web.Response:
        index = index_of(request.match_info, session)
        return web.json_response({"judges": session.show(index), **session.state(index)})

    async def finish(request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_later(0.2, done.set)
        return web.json_response({"graded": len(session.grades)})

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), token.encode()) or request.url.host not in LOCAL:
            raise web.HTTPNotFound
        try:
            response = await handler(request)
        except UsageError as error:
            response = web.json_response({"error": str(error)}, status=409)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    app = web.Application(middlewares=[guard])
    app.router.add_get(f"/{token}/", page)
    app.router.add_get(f"/{token}/pair/{{index}}", pair)
    app.router.add_post(f"/{token}/pair/{{index}}/grade", grade)
    app.router.add_post(f"/{token}/pair/{{index}}/show", show)
    app.router.add_post(f"/{token}/finish", finish)
    return app


def index_of(match: Any, session: Review) -> int:
    """The pair that a request is about."""
    text = match["index"]
    if not text.isascii() or not text.isdigit() or int(text) >= len(session.items):
        raise web.HTTPNotFound
    return int(text)


def criteria(prompt: Prompt) -> list[dict[str, str]]:
    """What each grade means, as the prompt tells a model: its lines `3: ...`, the lowest grade first."""
    found = dict(re.findall(r"^(\d): (.+)$", prompt.content.decode(), re.MULTILINE))
    return [{"grade": label.text, "means": found[label.text]} for label in prompt.labels]
