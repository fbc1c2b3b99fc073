"""The registry: whole versions or none, nothing damaged is opened, the served one stays served."""

import dataclasses
import json
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import usual

from smartcity import modelling, registry
from smartcity.errors import ModelError, StorageError
from smartcity.modelling import candidates
from smartcity.modelling.export import export
from smartcity.predict import Predictor

Publish = Callable[..., registry.Card]
Trained = dict[str, modelling.Trained]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let the system refuse files larger than a limit, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def leftovers(home: Path) -> list[str]:
    return [p.name for p in (home / "models" / "energy").glob(".tmp-*")]


def test_publishing_writes_all_files_and_serves_the_version(home: Path, publish: Publish) -> None:
    card = publish("energy")

    folder = home / "models" / "energy" / "1.0.0"
    names = {"model.onnx", "model.joblib", "card.json", "card.md", "later.csv", "SHA256SUMS"}
    names |= {f"{part}.{kind}" for part in {*card.parts} - {"now"} for kind in ("onnx", "joblib")}
    assert {p.name for p in folder.iterdir()} == names
    assert card.version == registry.current("energy") == "1.0.0"
    assert "# Energy 1.0.0" in (folder / "card.md").read_text()


def test_the_same_number_after_publish_load_predict(publish: Publish, trained: Trained) -> None:
    card = publish("energy")
    row = usual(card)
    fitted = registry.load_estimator("energy")

    served = Predictor.load("energy").predict(row).prediction

    inputs = np.array([[row[name] for name in card.parts["now"].view.names]], dtype=np.float32)
    by_hand = fitted.predict(inputs)[0]
    assert served == pytest.approx(by_hand, rel=1e-4)
    assert by_hand == trained["energy"].fitted["now"].estimator.predict(inputs)[0]


def test_versions_count_patch_minor_major(publish: Publish, trained: Trained) -> None:
    publish("energy")
    again = publish("energy")
    draft = modelling.draft(trained["energy"], run="test")
    other = modelling.publish(trained["energy"], draft.model_copy(update={"estimator": "other"}))
    renamed = draft.model_copy(update={"estimator": "other", "target": "other"})
    major = modelling.publish(trained["energy"], renamed)

    assert [again.version, other.version, major.version] == ["1.0.1", "1.1.0", "2.0.0"]


def _of_other_rows(trained: modelling.Trained) -> bytes:
    tried = trained.chosen["now"]
    X = tried.problem.matrix(tried.candidate.view)[:300]
    estimator = candidates.make(trained.dataset.domain, tried.candidate)
    return export(estimator.fit(X, tried.problem.y[:300]))


def test_an_export_that_differs_is_refused(home: Path, publish: Publish, trained: Trained) -> None:
    publish("energy")
    draft = modelling.draft(trained["energy"], run="test")
    fitted = trained["energy"].fitted
    now = dataclasses.replace(fitted["now"], onnx=_of_other_rows(trained["energy"]))

    with pytest.raises(ModelError, match="differs from the fitted model"):
        registry.publish(draft, fitted | {"now": now}, pages={})

    assert registry.versions("energy") == ["1.0.0"]


@pytest.mark.parametrize("name", ["model.onnx", "model.joblib", "card.md"])
def test_one_flipped_byte_is_found(name: str, home: Path, publish: Publish) -> None:
    publish("energy")
    flip_a_byte(home / "models" / "energy" / "1.0.0" / name)

    with pytest.raises(ModelError, match="not the file that was published.*rollback energy"):
        registry.verify("energy")


def test_a_damaged_model_is_never_opened(home: Path, publish: Publish) -> None:
    publish("energy")
    flip_a_byte(home / "models" / "energy" / "1.0.0" / "model.onnx")
    flip_a_byte(home / "models" / "energy" / "1.0.0" / "model.joblib")

    with pytest.raises(ModelError, match="Nothing was loaded"):
        registry.load("energy")
    with pytest.raises(ModelError, match="Nothing was loaded"):
        registry.load_estimator("energy")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"domain": 1}', b"\xff\xfe", b'{"simulated": 1}']
)
def test_a_damaged_card_is_named(content: bytes, home: Path, publish: Publish) -> None:
    publish("energy")
    (home / "models" / "energy" / "1.0.0" / "card.json").write_bytes(content)

    with pytest.raises(ModelError, match=r"card\.json is damaged"):
        registry.load("energy")


def test_rollback_and_promote_change_what_is_served(publish: Publish) -> None:
    publish("energy")
    publish("energy")

    assert registry.rollback("energy").version == "1.0.0"
    with pytest.raises(ModelError, match="no version of 'energy' before"):
        registry.rollback("energy")
    assert registry.promote("energy", "1.0.1").version == registry.current("energy")


def test_a_refused_version_is_served_only_by_force(publish: Publish, trained: Trained) -> None:
    publish("energy")
    draft = modelling.draft(trained["energy"], run="test")
    gate = registry.Gate(passed=False, reasons=["It is no better than a guess."])
    refused = modelling.publish(trained["energy"], draft.model_copy(update={"gate": gate})).version

    with pytest.raises(ModelError, match=r"no better than a guess\. To serve it all the same"):
        registry.promote("energy", refused)
    assert registry.current("energy") == "1.0.0"
    registry.promote("energy", refused, force="the old sensor is gone")

    assert registry.current("energy") == refused
    last = registry.history("energy")[-1]
    assert (last["action"], last["why"]) == ("forced", "the old sensor is gone")
    assert last["by"]


def test_rollback_passes_over_what_was_never_served(publish: Publish, trained: Trained) -> None:
    publish("energy")
    draft = modelling.draft(trained["energy"], run="test")
    gate = registry.Gate(passed=False, reasons=["no"])
    modelling.publish(trained["energy"], draft.model_copy(update={"gate": gate}))
    publish("energy")

    assert registry.current("energy") == "1.0.2"
    assert registry.rollback("energy").version == "1.0.0"
    assert [r["action"] for r in registry.history("energy")] == [
        "promoted",
        "promoted",
        "rolled back",
    ]


def test_every_change_of_what_is_served_is_recorded(home: Path, publish: Publish) -> None:
    publish("energy")
    path = home / "models/energy/history.jsonl"
    path.write_text(path.read_text() + "not a record\n")
    publish("energy")

    assert [r["version"] for r in registry.history("energy")] == ["1.0.0", "1.0.1"]


def test_a_damaged_version_cannot_be_promoted(home: Path, publish: Publish) -> None:
    publish("energy")
    publish("energy")
    registry.rollback("energy")
    flip_a_byte(home / "models" / "energy" / "1.0.1" / "model.onnx")

    with pytest.raises(ModelError):
        registry.promote("energy", "1.0.1")

    assert registry.current("energy") == "1.0.0"


@pytest.mark.parametrize("limit", [100, 20_000, 300_000])
def test_a_full_disk_publishes_nothing(limit: int, home: Path, publish: Publish) -> None:
    publish("energy")

    with full_disk(limit), pytest.raises(StorageError, match="Cannot write.*Free some space"):
        publish("energy")

    assert registry.versions("energy") == ["1.0.0"]
    assert registry.current("energy") == "1.0.0"
    assert leftovers(home) == []
    assert Predictor.load("energy").card.version == "1.0.0"


def test_a_folder_that_cannot_be_written_publishes_nothing(home: Path, publish: Publish) -> None:
    (home / "models").write_text("a file where the folder should be")

    with pytest.raises(StorageError, match="Cannot write"):
        publish("energy")


@pytest.mark.parametrize("content", [b"", b"banana", b"../../x", b"\xff\xfe\x00", b"1.0"])
def test_a_damaged_current_says_what_to_do(content: bytes, home: Path, publish: Publish) -> None:
    publish("energy")
    (home / "models" / "energy" / "CURRENT").write_bytes(content)

    with pytest.raises(ModelError, match=r"smartcity models promote energy 1\.0\.0"):
        registry.load("energy")
    with pytest.raises(ModelError, match="models promote"):
        registry.rollback("energy")


def test_an_altered_card_is_found(home: Path, publish: Publish) -> None:
    publish("energy")
    path = home / "models" / "energy" / "1.0.0" / "card.json"
    path.write_text(path.read_text().replace('"level": 0.9', '"level": 0.8'))

    with pytest.raises(ModelError, match="not the card that was published"):
        registry.verify("energy")


def test_a_damaged_version_does_not_keep_others_from_being_published(
    home: Path, publish: Publish
) -> None:
    publish("energy")
    (home / "models" / "energy" / "1.0.0" / "card.json").write_text("{")

    assert publish("energy").version == "1.1.0"


def test_processes_publishing_at_once_do_not_collide(home: Path, trained: Trained) -> None:
    draft = modelling.draft(trained["energy"], run="test")

    with ThreadPoolExecutor(4) as pool:
        cards = list(pool.map(lambda _: modelling.publish(trained["energy"], draft), range(4)))

    assert {card.version for card in cards} == {"1.0.0", "1.0.1", "1.0.2", "1.0.3"}


def test_what_was_never_served_can_be_discarded(publish: Publish, trained: Trained) -> None:
    publish("energy")
    draft = modelling.draft(trained["energy"], run="late")
    version = modelling.publish(trained["energy"], draft).version

    assert registry.of_run("energy", "late") == version
    registry.discard("energy", version)

    assert registry.versions("energy") == ["1.0.0"]
    with pytest.raises(ModelError, match="is being served"):
        registry.discard("energy", "1.0.0")


def test_no_model_says_how_to_train_one(home: Path) -> None:
    with pytest.raises(ModelError, match="smartcity build --domain energy"):
        registry.load("energy")


def test_an_unknown_version_names_the_known(publish: Publish) -> None:
    publish("energy")

    with pytest.raises(ModelError, match=r"Unknown energy version '1\.0\.9'.*'1\.0\.0'"):
        registry.load("energy", "1.0.9")


def test_the_card_has_the_fields_others_rely_on(home: Path, publish: Publish) -> None:
    publish("air_quality")

    card = json.loads((home / "models" / "air_quality" / "1.0.0" / "card.json").read_bytes())

    assert set(card) >= {
        "domain", "version", "created_at", "task", "target", "unit", "inputs", "metrics",
        "specified", "baselines", "coverage", "data", "environment", "git", "run", "files",
    }  # fmt: skip
    assert set(card["inputs"][0]) >= {"name", "unit", "low", "high", "optional"}
    assert set(card["metrics"]) >= {"random", "time_ordered"}
    assert set(card["metrics"]["random"]) == {"rmse", "mae", "r2"}
    assert set(card["coverage"]) >= {"level", "overall", "by_month"}
    assert set(card["data"]) >= {"files", "from", "to", "rows", "simulated"}
    assert set(card["environment"]) == {"python", "packages"}
    assert set(card["git"]) == {"commit", "dirty"}
