"""Answers that hold what they should in every form: JSON, CSV, DataFrames, downstream rows, steps of every width."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from tests.servers import RunningServer
from tests.zoo import FIRST, SECOND, SECOND_BODY, T0, Zoo, filled_zoo, zoo_config


@pytest.fixture
def zoo(server: RunningServer, tmp_path: Path) -> Zoo:
    return filled_zoo(server, tmp_path)


def test_a_sum_above_64_bits_is_the_same_whole_number_in_every_form(zoo: Zoo, tmp_path: Path) -> None:
    told = zoo.client.metric("tu", start=T0)
    again = pipeline.batch(zoo_config(tmp_path), zoo.client.raw("s"), stages=["tu"]).metric("tu")

    assert zoo.answer("tu")["data"][0]["sn"] == 2**63
    assert told["sn"].tolist() == again["sn"].tolist() == [2**63, 0]
    assert all(type(value) is int for value in told["sn"])
    assert told["c"].dtype == "Int64", "the other columns are as they were"
    assert zoo.client.metric("tu", start=T0 + 10 * SECOND)["sn"].dtype == "Int64", "no value there needs more"


def test_a_list_is_one_cell_of_json_in_csv(zoo: Zoo) -> None:
    told = zoo.answer("tu")["data"]

    header, *rows = csv.reader(io.StringIO(zoo.text("tu", start=T0), newline=""), strict=True)

    assert [len(row) for row in rows] == [len(header)] * 2
    for row, said in zip(rows, told, strict=True):
        for name in ("top", "h"):
            assert json.loads(row[header.index(name)]) == said[name]
    assert told[0]["top"] == [["a", 1], ["b, c", 1]]
    assert told[0]["h"][0][2] == 1, "a histogram with a bucket"
