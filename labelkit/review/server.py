"""The web server of `labelkit review`. Every address begins with the session's token. The page loads nothing from other
hosts, and shows texts only as plain text.
"""

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from labelkit.errors import LabelkitError, UsageError
from labelkit.judging.prompts import Prompt
from labelkit.review.session import Review
from labelkit.storage.shipped import SHIPPED

PAGE = SHIPPED / "review.html"
LOCAL = ("127.0.0.1", "localhost")
"""Host names that the server accepts. A request under any other name comes from another web page and is refused."""
LARGEST_BODY = 4096
"""Largest accepted request body, in bytes; a grade takes 14."""
DIGITS = 9
"""Largest number of digits in the number of a pair."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(session: Review, prompt: Prompt, token: str, done: asyncio.Event) -> web.Application:
    """Make the web application of a session. `done` is set when the annotator has finished."""

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
        index, label = index_of(request.match_info, session), grade_in(await request.read())
        if label not in prompt.label_texts:
            raise web.HTTPBadRequest(text="no such grade")
        session.grade(index, label)
        return web.json_response(session.state(index))

    async def show(request: web.Request) -> web.Response:
        index = index_of(request.match_info, session)
        return web.json_response({"judges": session.show(index), **session.state(index)})

    async def finish(request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_later(0.2, done.set)
        return web.json_response({"graded": len(session.grades)})

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.raw_path.split("/")[1]
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()) or host_of(request) not in LOCAL:
            raise web.HTTPNotFound
        try:
            response = await handler(request)
        except UsageError as error:
            response = web.json_response({"error": str(error)}, status=409)
        except LabelkitError as error:
            response = web.json_response({"error": str(error)}, status=500)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    app = web.Application(middlewares=[guard], client_max_size=LARGEST_BODY)
    app.router.add_get(f"/{token}/", page)
    app.router.add_get(f"/{token}/pair/{{index}}", pair)
    app.router.add_post(f"/{token}/pair/{{index}}/grade", grade)
    app.router.add_post(f"/{token}/pair/{{index}}/show", show)
    app.router.add_post(f"/{token}/finish", finish)
    return app


def grade_in(body: bytes) -> str:
    """Parse the grade in a request body. Raises `HTTPBadRequest` for a body other than `{"grade": "..."}`."""
    try:
        grade = json.loads(body)["grade"]
    except (ValueError, LookupError, TypeError, RecursionError):
        grade = None
    if not isinstance(grade, str):
        raise web.HTTPBadRequest(text='expected a body of the form {"grade": "2"}')
    return grade


def host_of(request: web.Request) -> str | None:
    """Return the host name of a request; None if it is invalid."""
    try:
        return request.url.host
    except ValueError:
        return None


def index_of(match: Any, session: Review) -> int:
    """Return the number of the pair in a request's address. Raises `HTTPNotFound` if there is no such pair."""
    text = match["index"]
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS or int(text) >= len(session.items):
        raise web.HTTPNotFound
    return int(text)


def criteria(prompt: Prompt) -> list[dict[str, str]]:
    """Return the meaning of each grade, lowest first, from the lines `3: ...` of the prompt."""
    found = dict(re.findall(r"^(\d): (.+)$", prompt.content.decode(), re.MULTILINE))
    return [{"grade": label.text, "means": found[label.text]} for label in prompt.labels]
