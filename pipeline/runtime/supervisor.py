"""`streamgauge up`: the embedded server, the API, workers, the scheduler and the demo, as one tree of processes.

Invariant: when this process is gone, however it went, so is every other: each is tied to the life of this main thread,
which is why everything here starts from it. One folder has one `up`. It brings no polars: a config is read elsewhere.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import redis

from pipeline.core.definitions import Config
from pipeline.errors import ConfigError, StreamgaugeError
from pipeline.rim.checks import require_fit
from pipeline.rim.connection import is_away, without_password, writer
from pipeline.rim.embedded import EmbeddedServer
from pipeline.rim.folder_lock import FolderLock
from pipeline.runtime.children import Child
from pipeline.runtime.config_reader import ConfigReader
from pipeline.runtime.kept_config import ENV_FOLDER, ENV_TABLES
from pipeline.runtime.partition_counts import require_partitions
from pipeline.runtime.process_tree import ProcessTree
from pipeline.runtime.simulate import SIMULATIONS
from pipeline.runtime.table_places import kept_table_path, table_path, tables_in

EMBEDDED = "embedded"
COMMAND_MODULE = "api.main"  # every command; named, not imported: the runtime does not know the API
RUNNING_CONFIG = Path("running", "config.yaml")  # in the data folder: the text this `up` runs
RUNNING_TABLES = Path("running", "tables")  # and the tables it was checked with
CONNECT_TIMEOUT_S = 0.2
TRY_START = "-1m"  # six windows of the shipped demo: short enough to be seen moving in a terminal


class DataDirTakenError(StreamgaugeError):
    """Another `up` runs on this data folder."""


class PortTakenError(StreamgaugeError):
    """The API cannot listen where it shall."""


class ServerAwayError(StreamgaugeError):
    """The Redis that others run does not answer."""


@dataclass(frozen=True, slots=True)
class Up:
    """What `streamgauge up` was asked for; `redis_url` None leaves it to the config file and the environment."""

    config_path: Path
    host: str
    port: int
    data_dir: Path
    workers: int
    redis_url: str | None
    demo: bool
    allow_volatile: bool
    folder: Path | None = None  # where the paths of tables start; the children run a copy of the config file
    tables: Path | None = None  # where the tables are as they were checked

    @property
    def api_url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def talk(line: str) -> None:
    """Say a line to people: stdout belongs to data."""
    print(line, file=sys.stderr, flush=True)


def run_up(
    *,
    config_path: Path,
    host: str,
    port: int,
    data_dir: Path,
    workers: int,
    redis_url: str | None,
    demo: bool,
    allow_volatile: bool = False,
    say: Callable[[str], None] = talk,
) -> int:
    """Run everything until Ctrl-C or SIGTERM, then drain; return the exit code. Main thread only.

    Raises:
        ConfigError, ConfigReaderError, DataDirTakenError, PortTakenError, ServerAwayError, ServerUnfitError,
        EmbeddedServerError, NoServerError: nothing was started, or all of it was stopped again.
    """
    assert threading.current_thread() is threading.main_thread(), "children die with the thread that started them"
    up = Up(config_path, host, port, data_dir, workers, redis_url, demo, allow_volatile)
    lock = FolderLock(data_dir / "up.lock")
    try:
        up, config = _checked(up, lock)
        url = redis_url or config.redis_url
        if url != EMBEDDED:
            return _run_on(up, config, url, None, say)
        with EmbeddedServer(data_dir) as server:
            return _run_on(up, config, server.url, server, say)
    finally:
        lock.let_go()


def _checked(up: Up, lock: FolderLock) -> tuple[Up, Config]:
    """Check the config, take the data folder, and keep there what was checked: that is what the children run."""
    with ConfigReader(up.config_path) as reader:
        config = reader.read(os.environ)
        up.data_dir.mkdir(parents=True, exist_ok=True)
        if not lock.acquire():
            raise DataDirTakenError(
                f"{up.data_dir}: `streamgauge up` ({lock.holder()}) runs on this folder. "
                "Stop it, or take another --data-dir and --port."
            )
        require_free(up.host, up.port)
        kept, tables = _kept(up.config_path, config, up.data_dir), _kept_tables(up.config_path, config, up.data_dir)
        reader.read({**os.environ, ENV_TABLES: str(tables)})  # a table may have been replaced since it was checked
    folder = up.config_path.parent.absolute()
    return replace(up, config_path=kept, folder=folder, tables=tables.absolute()), config


def _kept(config_path: Path, config: Config, data_dir: Path) -> Path:
    """Keep the text that was checked: a child that is started again must not read what was saved since.

    Functions likewise; they are named relative to the config file.
    """
    kept = data_dir / RUNNING_CONFIG
    for name in (config_path.name, *config.functions):
        copy = kept if name == config_path.name else kept.parent / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config_path.parent / name, copy)
    return kept


def _kept_tables(config_path: Path, config: Config, data_dir: Path) -> Path:
    """Keep the tables as they were checked: a child that is started again takes the types of columns from these.

    A table may be changed at any time, and what is announced is the file's own content. One that cannot be used is no
    reason for a child to stop.

    Raises:
        ConfigError: a table was taken away after it was checked.
    """
    kept = data_dir / RUNNING_TABLES
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for table in tables_in(config):
        try:
            shutil.copyfile(table_path(config.folder, table), kept_table_path(str(kept), table))
        except OSError as error:
            raise ConfigError([f"{config_path}: the table {table} cannot be read: {error.strerror}."]) from error
    return kept


def _run_on(
    up: Up,
    config: Config,
    url: str,
    server: EmbeddedServer | None,
    say: Callable[[str], None],
) -> int:
    """Run the children on the Redis at `url`."""
    _require_fit(url, config, up.allow_volatile)
    # Children find what stands in the config or the environment by themselves: a password in argv is seen by everybody.
    known_url = url if server is not None else up.redis_url
    tree = ProcessTree(
        children_of(up, known_url),
        server=server,
        is_ready=lambda: accepts(up.host, up.port),
        on_ready=lambda: say(welcome(up, config, url)),
        say=say,
    )
    return tree.run()


def children_of(up: Up, redis_url: str | None) -> list[Child]:
    """Return the commands of the tree, in the order they start."""
    common = ["--config", str(up.config_path)]
    if redis_url is not None:
        common += ["--redis-url", redis_url]
    judging = [*common, "--allow-volatile"] if up.allow_volatile else common  # those that judge the server later on
    children = [Child("api", command("api", *judging, "--host", up.host, "--port", str(up.port)), "api")]
    for name in (f"worker-{number}" for number in range(1, up.workers + 1)):
        children.append(Child(name, command("worker", *common, "--name", name), "worker"))
    children.append(Child("scheduler", command("scheduler", *judging), "scheduler"))
    if up.demo:
        children.append(Child("demo", command("simulate", "--url", up.api_url), "demo"))
    if up.folder is None:
        return children
    environment = {ENV_FOLDER: str(up.folder)} | ({} if up.tables is None else {ENV_TABLES: str(up.tables)})
    return [replace(child, environment=environment) for child in children]


def command(*args: str) -> tuple[str, ...]:
    """Return the argv of one of our own commands, run by this very interpreter."""
    return (sys.executable, "-m", COMMAND_MODULE, *args)


def welcome(up: Up, config: Config, redis_url: str) -> str:
    """Return what `up` says when the API accepts: where things are, and one command that shows numbers."""
    from pipeline.runtime.cli import DEFAULT_PORT  # it imports us

    type_there = f"  Type   export STREAMGAUGE_URL={up.api_url}   (where you type replay, query or top)"
    elsewhere = () if up.port == DEFAULT_PORT else (type_there,)
    return "\n".join(
        (
            f"  Look   {up.api_url}/",
            f"  API    {up.api_url}",
            f"  Redis  {without_password(redis_url)}",
            f"  Try    curl '{up.api_url}{path_to_try(config, demo=up.demo)}'",
            *elsewhere,
            "  Ctrl-C drains and stops everything.",
        )
    )


def path_to_try(config: Config, *, demo: bool) -> str:
    """Return a path that answers with numbers: in a demo those of a metric it feeds, where they move."""
    metrics = [(stage.name, config.stream_of(stage).name) for stage in config.aggregates()]
    fed = [name for name, stream in metrics if stream in SIMULATIONS]
    if demo and fed:
        return f"/v1/metrics/{fed[0]}?start={TRY_START}"
    return f"/v1/metrics/{metrics[0][0]}" if metrics else "/v1/streams"


def _require_fit(url: str, config: Config, allow_volatile: bool) -> None:
    """Refuse a Redis that cannot keep the promises, and a config that does not fit the data there."""
    client = writer(url)
    try:
        require_fit(client, allow_volatile)
        require_partitions(client, config)
    except redis.exceptions.RedisError as error:
        if not is_away(error):
            raise
        raise ServerAwayError(
            f"{without_password(url)}: Redis does not answer ({error}). Start it, or use the embedded server "
            "(`redis: {url: embedded}` in the config)."
        ) from error
    finally:
        client.close()


def require_free(host: str, port: int) -> None:
    """Refuse a port somebody listens on: Granian would share it (SO_REUSEPORT) and answer every other request."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections of the last run linger
        try:
            probe.bind(address)
        except OSError as error:
            raise PortTakenError(
                f"cannot listen on port {port} of {host} ({error.strerror}): free it, or take another --port."
            ) from error


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:  # not listening yet
        return False
    return True
