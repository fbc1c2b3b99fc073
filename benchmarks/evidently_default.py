"""Ask Evidently's default preset about windows; run by ``drift.py`` in an environment of its own.

Reads from the folder it is given ``reference.csv`` and ``windows.csv`` (a column ``window``), and
prints for each window the columns it says have drifted; one without any value is left out.
"""

import json
import sys
import warnings
from pathlib import Path

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def drifted(current: pd.DataFrame, reference: pd.DataFrame) -> list[str]:
    """Give the columns that have drifted, each by the method and threshold Evidently chose."""
    there = [name for name in reference if current[name].notna().any()]  # it refuses empty ones
    snapshot = Report([DataDriftPreset()]).run(current[there], reference[there])
    found = []
    for metric in snapshot.dict()["metrics"]:
        config = metric["config"]
        if "column" in config:
            far, limit = float(metric["value"]), float(config["threshold"])
            is_distance = "distance" in config["method"].lower()
            if far >= limit if is_distance else far < limit:
                found.append(str(config["column"]))
    return found


def main() -> None:
    """Answer for all windows."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    reference = pd.read_csv(folder / "reference.csv")
    windows = pd.read_csv(folder / "windows.csv").groupby("window")
    told = {}
    for key, rows in windows:
        told[str(key)] = drifted(rows.drop(columns="window"), reference)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
