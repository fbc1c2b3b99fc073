"""Checked rows in, predictions out; the only prediction path."""

from smartcity.predict.predictor import Ahead, Interval, Prediction, Predictor
from smartcity.predict.rows import faults, history_model, plain, row_model
from smartcity.predict.serving import Predictors
