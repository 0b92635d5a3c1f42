"""Limit the concurrent requests to each server, depending on how it answers."""

import logging
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from labelkit.storage.credentials import LOOPBACK, key_for, secret_forms

log = logging.getLogger(__name__)

SILENT = 5
"""Number of consecutive faults after which a server is skipped, if there is another."""


OUT_SECONDS = 60.0
"""Seconds until a skipped server gets another request."""
SAID_SECONDS = 5.0
"""Shortest wait in seconds that is logged; simultaneous waits for one server are logged once."""


class Server:
    """The address of a server with its limit of concurrent requests and its recent faults."""

    def __init__(self, url: str, ceiling: int) -> None:
        parts = urlsplit(url)
        self.url = url
        self.key = key_for(url)
        self.secret_forms = secret_forms()
        """Secrets to remove from an answer, in which a short key may be an ordinary word."""
        self.all_secret_forms = secret_forms(self.key)
        """Secrets to remove from the reason of a failure."""
        self.busy = 0
        self.turn = 0
        self.limit = float(ceiling)
        self.out_until = 0.0
        # Servers on this machine are never reached through a proxy.
        direct = parts.hostname in LOOPBACK or bool(proxy_bypass(parts.hostname or ""))
        self.proxy = None if direct else getproxies().get(parts.scheme)
        self._ceiling = float(ceiling)
        self._cut_at = 0.0
        self._faults = 0
        self._waited_until = 0.0

    def answered(self) -> None:
        """Raise the limit by one for every full round of answers."""
        self.limit = min(self._ceiling, self.limit + 1 / self.limit)
        if self.out_until:
            log.info(f"{self.url} answers again")
        self._faults, self.out_until = 0, 0.0

    def refused(self, sent: float, now: float) -> None:
        """Halve the limit; a full round of refusals counts once."""
        self._faults, self.out_until = 0, 0.0
        if sent >= self._cut_at:
            self.limit, self._cut_at = max(1.0, min(self.limit, self.busy) / 2), now

    def failed(self, reason: object, now: float, *, others: bool) -> None:
        """Count a fault; after several in a row the server is skipped, if there are others, until it answers again."""
        self._faults += 1
        if self._faults >= SILENT and others:
            if not self.out_until:
                why = " ".join(str(reason).split())
                log.info(f"{self.url} does not answer ({why}): skipped, but tried again every {OUT_SECONDS:.0f} s")
            self.out_until, self.limit = now + OUT_SECONDS, 1.0

    def waits(self, seconds: float, asked: float | None, reason: object, now: float) -> None:
        """Log a long wait before a request is sent again: server, seconds, reason, and the wait that it asked for."""
        if seconds < SAID_SECONDS or now < self._waited_until:
            return
        self._waited_until = now + seconds
        longer = f", not the {asked:.0f} s that it asks for" if asked is not None and asked > seconds + 1 else ""
        why = " ".join(str(reason).split())
        log.info(f"waiting {seconds:.0f} s for {self.url}{longer} ({why})")
