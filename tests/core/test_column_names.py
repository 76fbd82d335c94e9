"""Columns of a file and the fields they are read as."""

from __future__ import annotations

import pytest

from pipeline.core.column_names import TwoColumnsError, field_name, read_as


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("temp_c", "temp_c"),
        ("temp (°C)", "temp_c"),
        ("Sensor ID", "sensor_id"),
        ("Température [°C]", "temperature_c"),
        ("2nd floor", "column_2nd_floor"),
        ("温度", "column"),
        ("x" * 100, "x" * 64),
    ],
)
def test_a_column_has_a_name_a_field_can_have(column: str, name: str) -> None:
    assert field_name(column) == name


def test_columns_are_read_as_the_fields_they_look_like() -> None:
    assert read_as(["Sensor ID", "temp (°C)", "note"], ["ts", "sensor_id", "temp_c"]) == ["sensor_id", "temp_c", "note"]
    assert read_as(["sensorID"], ["sensorID"]) == ["sensorID"]
    assert read_as(["sensorid"], ["sensorID"]) == ["sensorID"]


def test_a_field_s_own_name_goes_before_what_looks_like_it() -> None:
    assert read_as(["temp (°C)", "temp_c"], ["temp_c"]) == ["temp (°C)", "temp_c"]


def test_two_columns_that_look_like_one_field_are_refused_by_name() -> None:
    with pytest.raises(TwoColumnsError, match=r"both 'Temp C' and 'temp \(°C\)' could be the field 'temp_c'"):
        read_as(["Temp C", "temp (°C)"], ["temp_c"])
