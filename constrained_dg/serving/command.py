"""The command `constrained-dg serve run=RUN`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn

from constrained_dg.cli import entry
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.places import shipped_runs
from constrained_dg.runs import load
from constrained_dg.serving.app import create_app
from constrained_dg.serving.connection import BACKLOG, uvicorn_config
from constrained_dg.serving.settings import KEY, Settings


def serve(cfg: dict[str, Any]) -> None:
    """Serve a run until SIGTERM or Ctrl-C: requests that run have seconds to end, then they are given up.

    Args:
        cfg: plain values, see conf/serve.yaml.

    Raises:
        InputError: a run, value, address or port that cannot be used; before it listens.
    """
    bounds = ("host", "batch_size", "queue", "time_limit", "max_body")
    hosts = cfg["hosts"] if isinstance(cfg["hosts"], list) else [cfg["hosts"]]
    key = os.environ.get(KEY) or None
    settings = Settings(hosts=tuple(hosts), key=key, **{name: cfg[name] for name in bounds})
    port, threads = cfg["port"], cfg["threads"]
    check(is_count(port) and port < 65536, f"port is {port!r}", "give a number from 1 to 65535, or 0 for a free one")
    check(is_count(threads, 1), f"threads is {threads!r}", "give 1 or more")
    torch.set_num_threads(threads)
    folders = [str(cfg[key]) for key in ("run", "twin") if cfg[key] is not None]
    names = [name if name in shipped_runs() else Path(name).resolve().name for name in folders]
    check(len(set(names)) == len(names), f"run and twin are both called {names[0]!r}", "give folders of other names")
    runs = {name: load(folder, cfg["device"], cfg["packages"]) for name, folder in zip(names, folders, strict=True)}
    listening = _socket(settings.host, port)
    if any(run.task.tokenizer is not None for run in runs.values()):
        print("preparing rules on text: up to a minute the first time on a machine", file=sys.stderr, flush=True)
    app = create_app(runs, settings)
    host, port = listening.getsockname()[:2]
    print(f"serving {' and '.join(names)} at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    try:
        uvicorn.Server(uvicorn_config(app)).run([listening])
    except KeyboardInterrupt:  # SIGTERM too: uvicorn raises the signal again once it has ended
        print("ended", flush=True)


def _socket(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError where that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        hint = "give a free port (port=0 finds one) and an address of this machine"
        raise InputError(f"cannot listen at {host} port {port} ({error.strerror or error})", hint) from None


main = entry("serve", text=("run", "twin", "host"))(serve)
