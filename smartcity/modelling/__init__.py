"""Time-aware evaluation, training and the model card: the making side of a model."""

from smartcity.modelling.dataset import NOW, Dataset, Problem, prepare, problems
from smartcity.modelling.evaluation import ASHRAE, by, headline, levels, measure, table
from smartcity.modelling.importance import importance
from smartcity.modelling.search import Search, Tried, recipe, search
from smartcity.modelling.training import (
    Trained,
    draft,
    judge,
    later,
    own,
    publish,
    rival,
    served,
    train,
)
