"""Serve a session on 127.0.0.1 until the annotator has finished."""

import asyncio
import secrets
from collections.abc import Callable

from labelkit.errors import MissingPackageError
from labelkit.judging.prompts import Prompt
from labelkit.review.screens import Review


def serve(session: Review, prompt: Prompt, port: int, *, guidelines: str | None, ready: Callable[[str], None]) -> None:
    """Serve a session at a secret address that is passed to `ready`. Raises `MissingPackageError`."""
    try:
        import markdown_it  # noqa: F401
        import nh3  # noqa: F401
        from aiohttp import web
    except ImportError as error:
        raise MissingPackageError(error.name or "aiohttp", "review") from None

    from labelkit.review.server import application

    async def run() -> None:
        token, done = secrets.token_urlsafe(24), asyncio.Event()
        app = application(session, prompt, token, done=done, guidelines=guidelines)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            bound = runner.addresses[0][1]
            ready(f"http://127.0.0.1:{bound}/{token}/")
            await done.wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())
