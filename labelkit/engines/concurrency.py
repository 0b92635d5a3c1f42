"""How many requests a server bears at once, by how it answers."""

import logging
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from labelkit.storage.credentials import LOOPBACK, key_for, secret_forms

log = logging.getLogger(__name__)

SILENT = 5
"""So many faults in a row leave a server out, where there is another."""


OUT_SECONDS = 60.0
"""After that long it gets another request."""
SAID_SECONDS = 5.0
"""A wait of at least this many seconds is reported, one at a time for each server."""


class Server:
    """One address: how many requests it bears at once, and whether it answers."""

    def __init__(self, url: str, ceiling: int) -> None:
        parts = urlsplit(url)
        self.url = url
        self.key = key_for(url)
        self.secret_forms = secret_forms()
        """For an answer, in which a short key may be a word."""
        self.all_secret_forms = secret_forms(self.key)
        """For the reason of a failure."""
        self.busy = 0
        self.turn = 0
        self.limit = float(ceiling)
        self.out_until = 0.0
        # A machine's own servers are never reached through a proxy.
        direct = parts.hostname in LOOPBACK or bool(proxy_bypass(parts.hostname or ""))
        self.proxy = None if direct else getproxies().get(parts.scheme)
        self._ceiling = float(ceiling)
        self._cut_at = 0.0
        self._faults = 0
        self._waited_until = 0.0

    def answered(self) -> None:
        """One more at once for every round of answers."""
        self.limit = min(self._ceiling, self.limit + 1 / self.limit)
        if self.out_until:
            log.info(f"{self.url} answers again")
        self._faults, self.out_until = 0, 0.0

    def refused(self, sent: float, now: float) -> None:
        """Half as many at once; a whole round of refusals counts once."""
        self._faults, self.out_until = 0, 0.0
        if sent >= self._cut_at:
            self.limit, self._cut_at = max(1.0, min(self.limit, self.busy) / 2), now

    def failed(self, reason: object, now: float, *, others: bool) -> None:
        """No answer; several in a row leave the server out, where there are others, until one request gets through."""
        self._faults += 1
        if self._faults >= SILENT and others:
            if not self.out_until:
                why = " ".join(str(reason).split())
                log.info(f"{self.url} does not answer ({why}): left out, tried again every {OUT_SECONDS:.0f} s")
            self.out_until, self.limit = now + OUT_SECONDS, 1.0

    def waits(self, seconds: float, asked: float | None, reason: object, now: float) -> None:
        """Report for whom, why and how long a request waits before it is sent again, and what the server asked for."""
        if seconds < SAID_SECONDS or now < self._waited_until:
            return
        self._waited_until = now + seconds
        longer = f", not the {asked:.0f} s that it asks for" if asked is not None and asked > seconds + 1 else ""
        why = " ".join(str(reason).split())
        log.info(f"waiting {seconds:.0f} s for {self.url}{longer} ({why})")
