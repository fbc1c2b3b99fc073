"""The specification taken literally: an async FastAPI route, a pandas frame, its forest.

Carbon monoxide alone; ``n_jobs=-1`` as specified, for answering too. Nothing is recorded, limited,
measured or explained.
"""

from datetime import UTC, datetime
from typing import Any

import pandas as pd
from fastapi import FastAPI
from pydantic import create_model

from smartcity import modelling
from smartcity.modelling import candidates

dataset = modelling.prepare("air_quality")
names = list(dataset.domain.names)
problem = modelling.problems(dataset)["now"]
[specified] = [c for c in candidates.candidates(problem) if c.name == candidates.SPECIFIED]
forest = candidates.make(dataset.domain, specified).fit(dataset.inputs, dataset.y)
fields: dict[str, Any] = dict.fromkeys(names, (float | None, ...))
Row: Any = create_model("Row", **fields)
app = FastAPI()


def answer(value: float) -> dict[str, object]:
    """Give the specification's response schema."""
    now = datetime.now(UTC).isoformat()
    return {"success": True, "prediction": value, "timestamp": now, "model_version": "1.0.0"}


@app.post("/api/v1/predict/air-quality")
async def predict(row: Row) -> dict[str, object]:
    """Answer one row."""
    frame = pd.DataFrame([row.model_dump()])
    return answer(float(forest.predict(frame.to_numpy())[0]))


@app.post("/api/v1/predict/batch/air-quality")
async def predict_batch(rows: list[Row]) -> list[dict[str, object]]:
    """Answer many rows."""
    frame = pd.DataFrame([row.model_dump() for row in rows])
    return [answer(float(value)) for value in forest.predict(frame.to_numpy())]
