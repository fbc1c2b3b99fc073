"""A run as a Process Run Crate: its lineage in the open RO-Crate format.

Source: https://w3id.org/ro/crate, as the rocrate library writes it; profile "Process Run Crate".
"""

import json
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from smartcity.domains import Domain
from smartcity.runs import Run

_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"


def write(run: Run, domain: Domain, home: Path) -> None:
    """Write ``ro-crate-metadata.json`` beside a run's files.

    Args:
        run: The record; its ``outputs`` are the files described.
        domain: The question, for title, source and licence.
        home: The folder they lie in.
    """
    crate = ROCrate()
    crate.name = f"{domain.title}, {run.notebook}, run {run.id}"
    crate.description = f"What {run.notebook} made for {domain.title}."
    crate.datePublished = run.ended_at
    crate.license = domain.licence

    def add(identifier: str, kind: str, **about: str) -> Any:
        return crate.add(ContextEntity(crate, identifier, {"@type": kind, **about}))

    profile = add(_PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
    crate.root_dataset["conformsTo"] = profile
    results = [
        crate.add_file(home / name, name, properties={"sha256": sha256})
        for name, sha256 in run.outputs.items()
    ]
    given = [
        add(f"#input-{s['name']}", "CreativeWork", name=s["name"], sha256=s["sha256"])
        for s in run.inputs
    ]
    if run.model_version:
        about = {"version": run.model_version, "sha256": str(run.code.get("model"))}
        name = f"model {run.domain} {run.model_version}"
        given.append(add("#model", "CreativeWork", name=name, **about))
    given += [
        add(f"#parameter-{name}", "PropertyValue", name=name, value=json.dumps(value))
        for name, value in run.parameters.items()
    ]
    tool = {"version": run.smartcity, "sha256": str(run.code.get("notebook"))}
    instrument = add(
        f"#{run.notebook}", "SoftwareApplication", name=f"SmartCity {run.notebook}", **tool
    )
    ended = "Completed" if run.status == "succeeded" else "Failed"
    done = {"actionStatus": f"http://schema.org/{ended}ActionStatus"}
    done |= {"error": str(run.error["message"])} if run.error else {}
    times = {"startTime": run.started_at, "endTime": run.ended_at}
    action = add(f"#{run.id}", "CreateAction", name=crate.name, **times, **done)
    action["instrument"], action["object"], action["result"] = instrument, given, results
    crate.root_dataset["mentions"] = action
    graph = crate.metadata.generate()
    (home / "ro-crate-metadata.json").write_text(json.dumps(graph, indent=1), encoding="utf-8")
