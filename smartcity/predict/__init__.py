"""Checked rows in, predictions out; the only prediction path."""

from smartcity.predict.files import answer_file
from smartcity.predict.predictor import Interval, Prediction, Predictor, Predictors
from smartcity.predict.rows import faults, row_model

__all__ = [
    "Interval",
    "Prediction",
    "Predictor",
    "Predictors",
    "answer_file",
    "faults",
    "row_model",
]
