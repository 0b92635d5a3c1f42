"""The web server of `labelkit review`. Every address begins with the session's token. The page loads nothing from other
hosts, and shows texts as plain text or as cleaned Markdown.
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
from labelkit.judging.human_answers import LONGEST_NOTE, Answer
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import CANNOT_TELL
from labelkit.review.markup import safe_html
from labelkit.review.screens import Review
from labelkit.storage.shipped import SHIPPED

PAGE = SHIPPED / "review.html"
LOCAL = ("127.0.0.1", "localhost")
"""Host names that the server accepts. A request under any other name comes from another web page and is refused."""
LARGEST_BODY = 12 * LONGEST_NOTE + 100
"""Largest accepted request body, in bytes; JSON takes at most 12 for a character of a note."""
DIGITS = 9
"""Largest number of digits in the number of a pair or a screen."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(
    session: Review, prompt: Prompt, token: str, *, done: asyncio.Event, guidelines: str | None
) -> web.Application:
    """Make the web application of a session. `done` is set when the annotator has finished."""
    facts = {
        "criteria": criteria(prompt),
        "cannotTell": CANNOT_TELL,
        "longestNote": LONGEST_NOTE,
        "guidelines": guidelines and {"text": guidelines, "html": safe_html(guidelines)},
    }
    answers = {*prompt.label_texts, CANNOT_TELL}

    async def page(request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        text = PAGE.read_text(encoding="utf-8").replace("__NONCE__", nonce)
        stated = json.dumps({**facts, "start": session.next() or 0}).replace("<", "\\u003c")
        policy = f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        headers = {"Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
        return web.Response(text=text.replace("__FACTS__", stated), content_type="text/html", headers=headers)

    async def screen(request: web.Request) -> web.Response:
        return web.json_response(session.screen(number_in(request.match_info, len(session.screens))))

    async def grade(request: web.Request) -> web.Response:
        index, answer = number_in(request.match_info, len(session.items)), answer_in(await request.read())
        if answer.grade not in answers:
            raise web.HTTPBadRequest(text="no such grade")
        return web.json_response(session.state(session.answer(index, answer)))

    async def show(request: web.Request) -> web.Response:
        number = number_in(request.match_info, len(session.screens))
        session.lock(number)
        return web.json_response(session.state(number))

    async def finish(request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_later(0.2, done.set)
        return web.json_response({"graded": len(session.answers)})

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
    app.router.add_get(f"/{token}/screen/{{number}}", screen)
    app.router.add_post(f"/{token}/screen/{{number}}/show", show)
    app.router.add_post(f"/{token}/pair/{{number}}/grade", grade)
    app.router.add_post(f"/{token}/finish", finish)
    return app


def answer_in(body: bytes) -> Answer:
    """Parse the answer in a request body. Raises `HTTPBadRequest` for a body of another form, or a note that is too
    long.
    """
    try:
        document = json.loads(body)
        grade, note = document["grade"], document.get("note", "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        grade = note = None
    if not isinstance(grade, str) or not isinstance(note, str) or len(note) > LONGEST_NOTE:
        raise web.HTTPBadRequest(text=f'expected {{"grade": "2", "note": "at most {LONGEST_NOTE} characters"}}')
    return Answer(grade, note.strip())


def host_of(request: web.Request) -> str | None:
    """Return the host name of a request; None if it is invalid."""
    try:
        return request.url.host
    except ValueError:
        return None


def number_in(match: Any, end: int) -> int:
    """Return the number in a request's address. Raises `HTTPNotFound` if it is no number below `end`."""
    text = match["number"]
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS or int(text) >= end:
        raise web.HTTPNotFound
    return int(text)


def criteria(prompt: Prompt) -> list[dict[str, str]]:
    """Return the meaning of each grade, lowest first, from the lines `3: ...` of the prompt."""
    found = dict(re.findall(r"^(\d): (.+)$", prompt.content.decode(), re.MULTILINE))
    return [{"grade": label.text, "means": found[label.text]} for label in prompt.labels]
