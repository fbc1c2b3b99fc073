"""Fitted estimators -> ONNX: what skl2onnx does not know yet, and the rows where exports fail."""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.svm import SVR

from smartcity.features import Matrix

_OPSET = {"": 18, "ai.onnx.ml": 3}


def export(fitted: Any) -> bytes:
    """Write a fitted estimator as ONNX: input ``inputs``, float32, shape (rows, columns)."""
    # Imported here: of the notebooks only one exports, and this costs half a second.
    from skl2onnx import to_onnx, update_registered_converter
    from skl2onnx.common.data_types import FloatTensorType

    update_registered_converter(
        TransformedTargetRegressor, "TransformedTarget", _shape, _undo_log, overwrite=True
    )
    update_registered_converter(SVR, "Kernel", _shape, _kernel, overwrite=True)
    _teach_boosting()
    is_class = hasattr(fitted, "classes_")
    graph = to_onnx(
        _rounded_down(fitted),
        initial_types=[("inputs", FloatTensorType([None, fitted.n_features_in_]))],
        options={"zipmap": False} if is_class else None,
        target_opset=_OPSET,
    )
    content: bytes = graph.SerializeToString()
    return content


def _shape(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType

    operator.outputs[0].type = FloatTensorType([None, 1])


def _undo_log(scope: Any, operator: Any, container: Any) -> None:
    """Follow the inner estimator by exp(x) - 1, the inverse of the log it was fitted on."""
    from skl2onnx.algebra.onnx_operator import OnnxSubEstimator
    from skl2onnx.algebra.onnx_ops import OnnxExp, OnnxReshape, OnnxSub

    version = container.target_opset
    inner = OnnxSubEstimator(
        operator.raw_operator.regressor_, operator.inputs[0], op_version=version
    )
    grown = OnnxExp(inner, op_version=version)
    answer = OnnxSub(grown, np.array([1], dtype=np.float32), op_version=version)
    column = OnnxReshape(
        answer,
        np.array([-1, 1], dtype=np.int64),
        op_version=version,
        output_names=operator.outputs[:1],
    )
    column.add_to(scope, container)


def _kernel(scope: Any, operator: Any, container: Any) -> None:
    """Write a kernel regression as two matrix products.

    The operator for support vectors takes five times as long, and adds up in single precision
    what a thousand of them say.
    """
    from onnx import TensorProto
    from skl2onnx.algebra.onnx_ops import (
        OnnxAdd,
        OnnxCast,
        OnnxConcat,
        OnnxExp,
        OnnxGemm,
        OnnxMatMul,
        OnnxReduceSumSquare,
    )

    fitted, v = operator.raw_operator, {"op_version": container.target_opset}
    vectors = np.asarray(fitted.support_vectors_, dtype=np.float64)
    width = fitted._gamma  # noqa: SLF001  # the number that gamma came to
    X = operator.inputs[0]
    # exp(-g |x - s|^2) = exp(2 g x.s - g |x|^2 - g |s|^2), its exponent one product of (x, |x|^2)
    # with (2 g s, -g). Never above nought, it loses nothing in single precision; the sum might.
    size = OnnxReduceSumSquare(X, np.array([1]), **v)
    spread = np.vstack([2 * width * vectors.T, np.full(len(vectors), -width)])
    exponent = OnnxGemm(
        OnnxConcat(X, size, axis=1, **v),
        spread.astype(np.float32),
        (-width * (vectors**2).sum(1)).astype(np.float32),
        **v,
    )
    kernel = OnnxCast(OnnxExp(exponent, **v), to=TensorProto.DOUBLE, **v)
    answer = OnnxAdd(OnnxMatMul(kernel, fitted.dual_coef_.T, **v), fitted.intercept_, **v)
    single = OnnxCast(answer, to=TensorProto.FLOAT, output_names=operator.outputs[:1], **v)
    single.add_to(scope, container)


def _rounded_down(fitted: Any) -> Any:
    """Copy an estimator, its boosted trees' thresholds rounded down to single precision.

    Inputs come in single precision: ``x <= t`` is then the same as ``x <=`` the next number not
    above ``t``. Rounded to the nearest, as the export would, some rows would turn the other way.
    """
    copied = copy.deepcopy(fitted)
    for boosted in _inside(copied):
        for predictor in (p for stage in boosted._predictors for p in stage):  # noqa: SLF001
            exact = predictor.nodes["num_threshold"]
            near = exact.astype(np.float32)
            lower = np.nextafter(near, np.float32(-np.inf))
            predictor.nodes["num_threshold"] = np.where(near > exact, lower, near)
    return copied


class _PlainNumbers:
    """A container that takes the nodes of boosted trees as scikit-learn now keeps them.

    onnx wants plain integers where these are unsigned ones of numpy's, or booleans.
    """

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *arguments: Any, **attributes: Any) -> None:
        plain = {
            name: [int(v) if isinstance(v, bool | np.integer) else v for v in value]
            if isinstance(value, list)
            else value
            for name, value in attributes.items()
        }
        self._container.add_node(*arguments, **plain)


def _teach_boosting() -> None:
    """Let skl2onnx write histogram gradient boosting through ``_PlainNumbers``."""
    from skl2onnx.common._registration import get_converter, register_converter
    from skl2onnx.operator_converters.random_forest import (
        convert_sklearn_random_forest_classifier,
        convert_sklearn_random_forest_regressor_converter,
    )

    def regressor(scope: Any, operator: Any, container: Any) -> None:
        inner = convert_sklearn_random_forest_regressor_converter
        inner(scope, operator, _PlainNumbers(container))

    def classifier(scope: Any, operator: Any, container: Any) -> None:
        convert_sklearn_random_forest_classifier(scope, operator, _PlainNumbers(container))

    for kind, convert in (("Regressor", regressor), ("Classifier", classifier)):
        alias = f"SklearnHistGradientBoosting{kind}"
        options = get_converter(alias).get_allowed_options()
        register_converter(alias, convert, overwrite=True, options=options)


def _inside(estimator: Any) -> list[Any]:
    """Find the histogram gradient boosting inside an estimator, however deep."""
    if hasattr(estimator, "_predictors"):
        return [estimator]
    return [found for part in _parts(estimator) for found in _inside(part)]


def _parts(estimator: Any) -> list[Any]:
    """List the estimators an estimator holds itself."""
    held = [v if isinstance(v, list) else [v] for v in vars(estimator).values()]
    flat = [i[-1] if isinstance(i, tuple) and i else i for items in held for i in items]
    return [i for i in flat if isinstance(i, BaseEstimator)]


def thresholds(fitted: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Collect where the trees of an estimator split: columns and values, empty if there are none.

    Only trees that see the columns as they came are asked.
    """
    columns: list[NDArray[Any]] = [np.empty(0, dtype=np.int64)]
    values: list[NDArray[Any]] = [np.empty(0)]
    for boosted in _inside(fitted):
        for predictor in (p for stage in boosted._predictors for p in stage):  # noqa: SLF001
            inner = predictor.nodes[predictor.nodes["is_leaf"] == 0]
            columns.append(inner["feature_idx"].astype(np.int64))
            values.append(inner["num_threshold"])
    for tree in _trees(fitted):
        is_inner = tree.feature >= 0
        columns.append(tree.feature[is_inner].astype(np.int64))
        values.append(tree.threshold[is_inner])
    return np.concatenate(columns), np.concatenate(values)


def _trees(estimator: Any) -> list[Any]:
    if hasattr(estimator, "estimators_") and all(
        hasattr(tree, "tree_") for tree in estimator.estimators_
    ):
        return [tree.tree_ for tree in estimator.estimators_]
    return [found for part in _parts(estimator) for found in _trees(part)]


def hard_rows(fitted: Any, X: Matrix, optional: list[int], *, most: int = 250) -> Matrix:
    """Collect the rows on which an export goes wrong first.

    Args:
        fitted: The estimator.
        X: Real rows.
        optional: Columns that may be missing.
        most: How many of each kind.

    Returns:
        Real rows, the same with an optional column missing, and the same moved exactly onto split
        thresholds; shape (rows, columns).
    """
    rng = np.random.default_rng(42)
    real = X[rng.choice(len(X), min(most, len(X)), replace=False)]
    missing = [_with(real, np.full(len(real), n), np.nan) for n in optional]
    columns, values = thresholds(fitted)
    if not len(columns):
        return np.concatenate([real, *missing])
    drawn = rng.choice(len(columns), len(real))
    return np.concatenate([real, *missing, _with(real, columns[drawn], values[drawn])])


def _with(rows: Matrix, place: NDArray[np.int64], value: Any) -> Matrix:
    changed = rows.copy()
    changed[np.arange(len(rows)), place] = value
    return changed
