"""Builds the native parts where there is a C compiler; everything works without them, about half as fast.

`cc` (or what CC names) and the headers of Python are all it needs. A failure is said and is no error: the package is
then pure Python. STREAMGAUGE_NATIVE=required makes it one, for whoever builds wheels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Each one file: .c, built as .abi3.so.
PARTS = ("pipeline/core/_chunks", "pipeline/core/_names", "pipeline/core/_ndjson", "pipeline/core/_texts")
FLAGS = ("-O3", "-std=c11", "-Wall", "-Wextra", "-fPIC", "-shared")
TIMEOUT_S = 120


class NativeBuild(BuildHookInterface[Any]):
    """Compiles each part; the wheel is then of this platform, for every Python from 3.11 on (abi3)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        error = self._compile()
        if error is None:
            build_data["artifacts"] += [f"{part}.abi3.so" for part in PARTS]
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
        elif os.environ.get("STREAMGAUGE_NATIVE") == "required":
            raise RuntimeError(f"the native parts were not built: {error}")
        else:
            self.app.display_warning(f"the native parts are not built, the pure ones are used: {error}")

    def _compile(self) -> str | None:
        """Compile the parts; return why not, None when they are there."""
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            return "there is no C compiler (apt-get install gcc python3-dev)"
        if sys.platform == "win32":
            return "they need POSIX"
        errors = (self._compile_part(compiler, Path(self.root) / part) for part in PARTS)
        return next((error for error in errors if error is not None), None)

    def _compile_part(self, compiler: str, part: Path) -> str | None:
        flags = [*FLAGS, *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
        made = part.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, f"-I{sysconfig.get_paths()['include']}", f"{part}.c", "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode != 0:
            made.unlink(missing_ok=True)
            return (done.stderr or done.stdout).strip()[-500:]
        made.replace(part.with_suffix(".abi3.so"))  # a process that has the old one mapped goes on with it
        return None
