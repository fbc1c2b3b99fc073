"""Checked rows in, predictions out; the only prediction path."""

from smartcity.predict.files import Progress, answer_file, read_recent
from smartcity.predict.predictor import Ahead, Interval, Prediction, Predictor
from smartcity.predict.rows import faults, history_model, plain, row_model
from smartcity.predict.serving import Predictors

__all__ = [
    "Ahead",
    "Interval",
    "Prediction",
    "Predictor",
    "Predictors",
    "Progress",
    "answer_file",
    "faults",
    "history_model",
    "plain",
    "read_recent",
    "row_model",
]
