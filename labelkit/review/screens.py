"""The answers of a session, and the data of its screens: each shows one pair, or the passages of one query."""

import json
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import UsageError
from labelkit.judging.human_answers import Answer, answer_in, reply_with
from labelkit.judging.journal import Arrival, Journal
from labelkit.review.choosing import Item, Said
from labelkit.review.markup import safe_html
from labelkit.review.settling import Opinion
from labelkit.storage.atomic import write_text

SHOWN = "shown.json"
"""File with the keys of the pairs whose judges were shown."""


class Shown(NamedTuple):
    """A pair with everything that a screen can show about it."""

    item: Item
    said: Sequence[Said]
    """The judges' answers, hidden until the annotator's answer is locked."""
    opinions: Sequence[Opinion]
    """Other annotators' answers, shown from the beginning when disagreements are settled."""


class Review:
    """The screens of a session with the answers to their pairs. The journal must be open as long as it is used."""

    def __init__(self, screens: Sequence[Sequence[Shown]], journal: Journal, folder: Path) -> None:
        self.items = list(chain.from_iterable(screens))
        """All pairs, screen by screen."""
        firsts = [0]
        for screen in screens:
            firsts.append(firsts[-1] + len(screen))
        self.screens = [range(first, end) for first, end in pairwise(firsts)]
        """Numbers of the pairs of each screen."""
        self._screen_of = [number for number, screen in enumerate(self.screens) for _ in screen]
        self._journal = journal
        self._file = folder / SHOWN
        self._locked: set[str] = set(json.loads(self._file.read_text())) if self._file.is_file() else set()
        self.answers: dict[str, Answer] = {}
        """Key of a pair -> the answer to it."""
        journal.answered()  # deletes damaged replies
        for shown in self.items:
            if answer := answer_in(journal.reply(shown.item.key)):
                self.answers[shown.item.key] = answer

    def screen(self, number: int) -> dict[str, Any]:
        """Return the texts of a screen and its `state`."""
        pairs = [self.items[place] for place in self.screens[number]]
        texts = [
            {
                "title": item.title,
                "text": item.text,
                "html": safe_html(item.text),
                "shared": item.shared,
                "annotators": [{"name": judge.name, **answer._asdict()} for judge, answer in opinions],
            }
            for item, _, opinions in pairs
        ]
        return {"query": pairs[0].item.query, "pairs": texts, **self.state(number)}

    def state(self, number: int) -> dict[str, Any]:
        """Return the counts of a session and the answers on a screen; the judges' grades only of locked pairs."""
        return {
            "screen": number,
            "screens": len(self.screens),
            "first": self.screens[number].start,
            "total": len(self.items),
            "graded": len(self.answers),
            "next": self.next(number),
            "answers": [self._answer(self.items[place]) for place in self.screens[number]],
        }

    def _answer(self, shown: Shown) -> dict[str, Any]:
        """Return the answer to a pair, and the judges' grades if they were shown."""
        key = shown.item.key
        answer, locked = self.answers.get(key), key in self._locked
        judges = [said._asdict() for said in shown.said] if locked else []
        grade, note = answer or (None, "")
        return {"grade": grade, "note": note, "locked": locked, "judges": judges}

    def next(self, after: int = -1) -> int | None:
        """Return the first screen with a pair without an answer after `after`, else up to it; None if there is none."""
        order = [*range(after + 1, len(self.screens)), *range(after + 1)]
        return next((number for number in order if not self._complete(number)), None)

    def _complete(self, number: int) -> bool:
        return all(self.items[place].item.key in self.answers for place in self.screens[number])

    def answer(self, index: int, answer: Answer) -> int:
        """Store an answer so that it survives a crash, and return the screen of the pair.

        Raises `UsageError` if the grade of a locked pair would change; its note may change.
        """
        key = self.items[index].item.key
        if key in self._locked and answer.grade != self.answers[key].grade:
            raise UsageError("the grade can no longer be changed, because the judges' grades were shown")
        self._journal.append([Arrival(reply_with(key, answer))])
        self.answers[key] = answer
        return self._screen_of[index]

    def lock(self, number: int) -> None:
        """Lock the answers on a screen, so that the judges' grades are shown. Raises `UsageError` if one is missing."""
        if not self._complete(number):
            each = "every passage" if len(self.screens[number]) > 1 else "the pair"
            raise UsageError(f"grade {each} first, then show the judges")
        self._locked.update(self.items[place].item.key for place in self.screens[number])
        write_text(self._file, json.dumps(sorted(self._locked)) + "\n")
