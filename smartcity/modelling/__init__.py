"""Time-aware evaluation, training and the model card: the making side of a model."""

from smartcity.modelling.evaluation import Evaluation, measure, table
from smartcity.modelling.training import Dataset, Trained, draft, later, prepare, publish, train

__all__ = [
    "Dataset",
    "Evaluation",
    "Trained",
    "draft",
    "later",
    "measure",
    "prepare",
    "publish",
    "table",
    "train",
]
