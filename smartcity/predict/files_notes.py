"""What speaks against the answers of many rows: as few texts, and which of them each row has."""

import numpy as np
from numpy.typing import NDArray

from smartcity.features import Matrix
from smartcity.predict.limits import Limits


class Notes(Limits):
    """The limits of a model, asked about rows of which most have the same to say."""

    def shared(self, rows: Matrix) -> tuple[NDArray[np.int32], list[str]]:
        """Judge rows of inputs, shape (rows, inputs), as ``of`` does.

        Returns:
            The place of each row's warnings among the texts, shape (rows,), and the texts.
        """
        lacking = np.isnan(rows) & self._looked_at
        # The words hang on what is missing and what stands out, and on nothing else, ...
        keys = self._odd(rows) + 1
        if lacking.any():
            keys += lacking @ (1 << np.arange(8, 8 + rows.shape[1]))
        # ... but name the value of an input that is out of range: such a row is like no other.
        alone = ((rows < self._low) | (rows > self._high)).any(axis=1).nonzero()[0]
        keys[alone] = -1 - np.arange(len(alone))
        _, first, places = np.unique(keys, return_index=True, return_inverse=True)
        texts = [" ".join(standing.warnings) for standing in self.of(rows[first])]
        return places.astype(np.int32), texts
