from __future__ import annotations

import orjson
import pytest

from deploy.demo_check import Findings, _look_at


def prediction(offset: int, user: int | str = 1, partition: int = 0, **changes) -> bytes:
    body = {
        "user_id": user,
        "source": {"topic": "events", "partition": partition, "offset": offset},
        "items": [{"item_id": "a", "score": 0.5}],
        "model_version": "w@1",
        "batch": 2,
    }
    return orjson.dumps({name: value for name, value in (body | changes).items() if value != "left out"})


def findings_of(*values: bytes | None) -> Findings:
    findings, seen, last = Findings(), set(), {}
    for value in values:
        _look_at(value, findings, seen, last)
    return findings


def test_good_predictions_are_counted_and_nothing_else() -> None:
    findings = findings_of(prediction(0), prediction(1, user=2), prediction(2))
    assert findings == Findings(predictions=3)
    assert findings.ok


def test_a_source_offset_that_comes_twice_is_a_duplicate() -> None:
    findings = findings_of(prediction(0), prediction(1, user=2), prediction(0, user=3))
    assert findings.duplicates == 1
    assert not findings.ok


def test_the_same_offset_of_another_partition_is_another_source() -> None:
    assert findings_of(prediction(0), prediction(0, user=2, partition=1)).ok


def test_a_user_whose_events_change_places_is_out_of_order() -> None:
    findings = findings_of(prediction(5), prediction(4))
    assert (findings.out_of_order, findings.duplicates) == (1, 0)
    assert not findings.ok


def test_users_among_each_other_may_change_places() -> None:
    assert findings_of(prediction(5), prediction(4, user=2)).ok


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        prediction(0, source={"partition": 0}),
        prediction(0, source="events-0-0"),
        prediction(0, items="left out"),
        prediction(0, items=None),
        prediction(0, model_version="left out"),
    ],
)
def test_what_is_no_whole_prediction_is_malformed(value: bytes | None) -> None:
    findings = findings_of(value)
    assert (findings.predictions, findings.malformed) == (1, 1)
    assert not findings.ok


def test_the_line_for_people_has_all_counts() -> None:
    text = Findings(predictions=1234, duplicates=1, out_of_order=2, malformed=3).text()
    assert text.startswith("1,234 predictions read back")
    assert text.endswith("1 twice, 2 out of order, 3 malformed")
