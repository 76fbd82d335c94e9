"""The real files as the shipped config declares them, their questions, and their lines as the door would store them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import batched_lines_placeholder
