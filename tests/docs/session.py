"""Where the blocks of a page run: a folder with a config and a product, whose address stands for the one of the pages.

Invariant: the commands run as a reader types them; only addresses, and ids that no other run has, are exchanged.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any

from api.client import Client
from tests.docs.blocks import Block
from tests.product.product import Product, environment

COMMAND_S = 60.0
READY_S = 60.0  # two seconds alone; tests of other files run beside it
BIN = Path(sys.executable).parent
PAGES_PORT = re.compile(r"(localhost|127\.0\.0\.1):8080")
UP = re.compile(r"^streamgauge up\b.*$", re.MULTILINE)
MAKE = re.compile(r"^(make |\. \.venv|python3 -m venv|\.venv-).*$", re.MULTILINE)


class Session:
    """A folder, and the product that runs on it; started where a page starts it, or by its first command."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.exchanged: dict[str, Callable[[], str]] = {}
        self.names: dict[str, Any] = {"__name__": "page"}
        self._stack = stack
        self._product: Product | None = None

    @property
    def product(self) -> Product:
        """The running product, started if it does not run."""
        if self._product is None:
            self._product = self._stack.enter_context(Product(self.folder, config=self.folder / "config.yaml"))
            self._product.wait_until_ready(READY_S)
        return self._product

    def stop(self) -> None:
        """Ctrl-C."""
        product, self._product = self.product, None
        assert product.press_ctrl_c() == 0, product.said

    def text(self, block: Block) -> str:
        """A block as it can run here."""
        text = block.text
        if self._product is not None:
            text = PAGES_PORT.sub(f"127.0.0.1:{self._product.port}", text)
            text = text.replace("Client()", f'Client("{self._product.url}")')
        for said, real in self.exchanged.items():
            if said in text:
                text = text.replace(said, real())
        return text

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run shell lines, stopping at the first that fails; `streamgauge` is ours and speaks to this product."""
        variables = environment(self.folder) | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "STREAMGAUGE_URL": self._product.url if self._product is not None else "",
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def run_shell(self, block: Block) -> str:
        """Run a block of shell lines and return what it printed; `streamgauge up` in it (re)starts the product."""
        if not MAKE.sub("", block.text).strip():
            return ""  # that its targets exist is tested in test_docs
        printed = ""
        for part in UP.split(MAKE.sub("", self.text(block))):
            if part.strip():
                done = self.shell(part)
                assert done.returncode == 0, f"{block.place}: {part}\n{done.stdout}\n{done.stderr}"
                printed += done.stdout
        if UP.search(block.text):
            _ = self.product
        return printed

    def forget_names(self) -> None:
        """Let go of what the Python of a page has left: a short page closes as little as a notebook does."""
        for each in self.names.values():
            if isinstance(each, Client):
                each.close()
        self.names = {"__name__": "page"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def run_python(self, block: Block) -> None:
        """Run Python in the folder; the blocks of a page share their names, as cells of a notebook."""
        code = compile(self.text(block), block.place, "exec")
        with chdir(self.folder):
            exec(code, self.names)
