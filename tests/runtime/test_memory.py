"""Freed memory stays in the process: large blocks that come and go cost no page faults."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from pipeline.runtime.memory import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
blocks = [bytearray(b"x") * 1_500_000 for _ in range(4)]
blocks.clear()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    blocks = [bytearray(b"x") * 1_500_000 for _ in range(4)]
    blocks.clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_blocks_of_a_bodys_size_are_reused_without_page_faults() -> None:
    assert faults("kept") * 10 < faults("default")
