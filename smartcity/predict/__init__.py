"""Checked rows in, predictions out; the only prediction path."""

from smartcity.predict.files import answer_file, read_recent
from smartcity.predict.predictor import Ahead, Interval, Prediction, Predictor
from smartcity.predict.rows import faults, history_model, row_model
from smartcity.predict.serving import Predictors

__all__ = [
    "Ahead",
    "Interval",
    "Prediction",
    "Predictor",
    "Predictors",
    "answer_file",
    "faults",
    "history_model",
    "read_recent",
    "row_model",
]
