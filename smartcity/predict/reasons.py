"""Why an answer is what it is: how far each input moves it from the usual answer, adding up."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from smartcity.features import Matrix

Ask = Callable[[Matrix], NDArray[np.float64]]


class Reason(BaseModel):
    """What one input, or a group of them, adds to the usual answer."""

    name: str
    contribution: float = Field(description="In the answer's unit; for a class, in probability")
    text: str = Field(description="The same in words")


class Reasons(BaseModel):
    """The usual answer and what is added to it: ``usual`` + all contributions = the answer."""

    usual: float = Field(description="The answer to usual inputs")
    contributions: list[Reason] = Field(description="Largest first")


def contributions(
    ask: Ask, row: NDArray[np.float32], usual: NDArray[np.float32], groups: Sequence[Sequence[int]]
) -> tuple[float, NDArray[np.float64]]:
    """Share the way from the usual answer to this one among groups of columns.

    Shapley values by one antithetic pair of orders (Castro et al. 2009; Mitchell et al. 2022):
    columns are brought in one group after the other, once forwards and once backwards, and each
    group gets the mean of the two steps it caused. They add up exactly.

    Args:
        ask: Answers rows of shape (rows, columns) with shape (rows,); asked once.
        row: The row to explain, shape (columns,).
        usual: What each column usually is.
        groups: Columns that are brought in together.

    Returns:
        The usual answer, and the contribution of each group.
    """
    count = len(groups)
    is_in = np.zeros((2 * count, len(row)), dtype=bool)
    for place, group in enumerate(groups):
        is_in[place + 1 : count + 1, list(group)] = True  # brought in from the front
        is_in[2 * count - place :, list(group)] = True  # and from the back
    said = ask(np.where(is_in, row, usual).astype(np.float32))
    forward = np.diff(said[: count + 1])
    backward = np.diff(np.concatenate([said[:1], said[count + 1 :], said[count : count + 1]]))
    return float(said[0]), (forward + backward[::-1]) / 2
