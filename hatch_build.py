"""Builds the native reader of NDJSON where there is a C compiler; everything works without it, about half as fast.

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

SOURCE, BUILT = "pipeline/core/_ndjson.c", "pipeline/core/_ndjson.abi3.so"
FLAGS = ("-O3", "-std=c11", "-Wall", "-Wextra", "-fPIC", "-shared")
TIMEOUT_S = 120


class NativeBuild(BuildHookInterface[Any]):
    """Compiles one file; the wheel is then of this platform, for every Python from 3.11 on (abi3)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        error = self._compile()
        if error is None:
            build_data["artifacts"].append(BUILT)
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
        elif os.environ.get("STREAMGAUGE_NATIVE") == "required":
            raise RuntimeError(f"the native reader was not built: {error}")
        else:
            self.app.display_warning(f"the native reader is not built, the pure one is used: {error}")

    def _compile(self) -> str | None:
        """Compile the reader; return why not, None when it is there."""
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            return "there is no C compiler (apt-get install gcc python3-dev)"
        if sys.platform == "win32":
            return "it needs POSIX"
        root = Path(self.root)
        flags = [*FLAGS, *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
        made = root / f"{BUILT}.{os.getpid()}"
        command = [compiler, *flags, f"-I{sysconfig.get_paths()['include']}", str(root / SOURCE), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode != 0:
            made.unlink(missing_ok=True)
            return (done.stderr or done.stdout).strip()[-500:]
        made.replace(root / BUILT)  # a process that has the old one mapped goes on with it
        return None
