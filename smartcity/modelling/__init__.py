"""Time-aware evaluation, training and the model card: the making side of a model."""

from smartcity.modelling.evaluation import Evaluation, table
from smartcity.modelling.training import Dataset, Trained, draft, prepare, publish, score, train

__all__ = [
    "Dataset",
    "Evaluation",
    "Trained",
    "draft",
    "prepare",
    "publish",
    "score",
    "table",
    "train",
]
