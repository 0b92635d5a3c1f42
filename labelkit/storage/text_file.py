"""Keep texts in a file instead of in memory, and read them by their number."""

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from labelkit.storage.atomic import disk_errors


class TextFile:
    """Texts by number, from 0, in a temporary file without a name, which disappears with its process. Use it in `with`.

    A text takes 8 bytes of memory. Texts are read with `pread` and not mapped, so that they do not count as memory.
    Raises `ArtifactError` if the disk is full.
    """

    def __init__(self, texts: Iterable[str], folder: Path) -> None:
        self._ends = array("q", [0])
        with disk_errors(f"the texts of the pool do not fit into a temporary file in {folder}"):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `__exit__`)
            try:
                for text in texts:
                    self._ends.append(self._ends[-1] + self._file.write(text.encode()))
                self._file.flush()
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        (text,) = self.several([number])
        return text

    def several(self, numbers: Sequence[int]) -> list[str]:
        """Return the texts of some numbers."""
        ends, file = self._ends, self._file.fileno()
        return [os.pread(file, ends[number + 1] - ends[number], ends[number]).decode() for number in numbers]
