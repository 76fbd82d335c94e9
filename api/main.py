"""The `streamgauge` command: the pipeline's commands and those that need the API or its client.

Invariant: this is the only place that knows both, because the runtime does not import the API.
"""

from __future__ import annotations

import sys

from api import aside_commands, commands, query_command, replay_command, tail_command, top_command
from pipeline.runtime import project_commands, trust_commands
from pipeline.runtime.cli import app, run

__all__ = ["app", "main"]

commands.add_to(app)
tail_command.add_to(app)
query_command.add_to(app)
top_command.add_to(app)
replay_command.add_to(app)
trust_commands.add_to(app)
aside_commands.add_to(app)
project_commands.add_to(app)


def main() -> None:
    sys.exit(run(app, sys.argv[1:]))


if __name__ == "__main__":
    main()
