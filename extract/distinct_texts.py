"""What the texts of a store become, each distinct text encoded once a process.

All of them are put in order, by length and then by token ids, and cut into batches. So a text's features
depend on the store's texts alone, whichever rows ask for them first and however many processes share the
work.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Interrupted
from mambavl.configs.progress import ShouldStop, never
from mambavl.extract.encoders.base import TextEncoder, TextLevel
from mambavl.extract.options import TextExtraction

Tokens = tuple[int, ...]  # the token ids of a text
ROOM = "name a folder with room in the variable TMPDIR and run the same command again"


class DistinctTexts:
    """Encodes a batch when one of its texts is first asked for, and keeps all of it. For one thread.

    Kept in a temporary file that has no name, in the folder TMPDIR, so that the process does not grow with
    the number of texts. In the end the file has as many bytes as the features: at most the sum of the texts'
    lengths x width x item size a level.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        texts: Iterable[Tokens],
        options: TextExtraction,
        should_stop: ShouldStop = never,
    ) -> None:
        """texts: of the whole store, in any order and number. Nothing is encoded before `features`.

        Raises DataError where the temporary folder has no room for their features.
        """
        self.encoder = encoder
        self.options = options
        self.should_stop = should_stop
        self.texts = sorted(set(texts), key=lambda tokens: (len(tokens), tokens))
        self._place = {tokens: place for place, tokens in enumerate(self.texts)}
        self._encoded: set[int] = set()  # numbers of batches
        lengths = np.array([len(tokens) for tokens in self.texts], np.int64)
        # level -> byte of the file where each text begins and where the last one ends, (texts + 1,)
        self._starts: dict[TextLevel, np.ndarray] = {}
        size, vector_bytes = 0, encoder.width * np.dtype(options.dtype).itemsize
        for level in options.levels:
            vectors = np.minimum(lengths, 1) if level == "pooled" else lengths
            self._starts[level] = size + np.concatenate([[0], np.cumsum(vectors)]) * vector_bytes
            size = int(self._starts[level][-1])
        _refuse_full_disk(size)
        self._file = tempfile.TemporaryFile(prefix="mambavl-")  # noqa: SIM115 - lives as long as this does

    def close(self) -> None:
        """Gives the temporary file back."""
        self._file.close()

    def features(self, texts: Sequence[Tokens]) -> dict[TextLevel, list[np.ndarray]]:
        """By level, as they are stored: (L, D) of each text, (1, D) for `pooled`, (0, D) of an empty one.

        Raises KeyError for a text that is none of the store's, Interrupted when `should_stop()` turns true
        between two batches, DataError where the temporary file cannot grow.
        """
        places = [self._place[tokens] for tokens in texts]
        wanted = {place // self.options.batch_texts for place in places}
        for batch in sorted(wanted - self._encoded):
            if self.should_stop():
                raise Interrupted(
                    "stopped inside a row group, which will be done again; the same command resumes"
                )
            self._encode(batch)
        return {level: [self._kept(level, place) for place in places] for level in self.options.levels}

    def _encode(self, batch: int) -> None:
        first = batch * self.options.batch_texts
        ids = [list(tokens) for tokens in self.texts[first : first + self.options.batch_texts]]
        encoded = self.encoder.encode(ids, self.options.levels)
        for level in self.options.levels:
            joined = np.concatenate([value.numpy() for value in encoded[level]])
            with np.errstate(over="ignore"):  # past float16's range: infinite, which is refused later
                self._keep(level, first, joined.astype(self.options.dtype))
        self._encoded.add(batch)

    def _keep(self, level: TextLevel, first: int, vectors: np.ndarray) -> None:
        """vectors (sum of L, D) of the texts from `first` on."""
        try:
            self._file.seek(self._starts[level][first])
            self._file.write(vectors.tobytes())
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()}: encoded texts could not be kept there ({error.strerror}); {ROOM}"
            ) from error

    def _kept(self, level: TextLevel, place: int) -> np.ndarray:
        start, stop = self._starts[level][place : place + 2].tolist()
        self._file.seek(start)
        data = self._file.read(stop - start)
        return np.frombuffer(data, self.options.dtype).reshape(-1, self.encoder.width)


def _refuse_full_disk(size: int) -> None:
    folder = Path(tempfile.gettempdir())
    free = fsops.free_bytes(folder)
    if size > free:
        raise DataError(
            f"{folder}: encoded texts are kept there while the command runs, which takes up to {size:,} "
            f"bytes, and {free:,} are free; {ROOM}"
        )
