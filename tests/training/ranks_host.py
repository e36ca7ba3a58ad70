# SPDX-License-Identifier: MIT
"""Starts processes that train together, by forking, so that torch is imported once: `python ranks_host.py < JSON`.

JSON: a list of {"count": of processes, "out": folder, "data": folder, "family": name, "model": settings, "train": settings,
"steps": N}, one after the other; with "anneal": true, "stop" and "nan": the rank that gets a
SIGTERM, or whose loss is none, in the third step; "last_data": a
folder for the last rank alone, "last_validation": as well; "clock": seconds by which its clock is ahead.
Prints a JSON list for each: of each process its exit code and what it wrote.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # every optimizer imports it: once is enough

from fewbits.errors import TrainingError
from fewbits.families import FAMILIES
from fewbits.training import loop
from fewbits.training.checkpoint import plain_settings
from fewbits.training.loop import Budget, Run, TrainConfig, train
from fewbits.training.ranks import Ranks, torchrun_ranks


def run(ranks: Ranks, wanted: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    loop.LOG_STEPS = 1  # type: ignore[misc]
    config_class, model_class = FAMILIES[wanted["family"]]
    initialize, loss, step = model_class.initialize, model_class.loss, Run.train_step
    model_class.initialize = lambda self, pictures, distortion: initialize(self, islice(pictures, 1), distortion)

    def watched(self: Run, *arguments: Any) -> dict[str, float]:
        if wanted.get("stop") == ranks.index and self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        if wanted.get("nan") == ranks.index and self.step == 2:
            model_class.loss = lambda *given: (loss(*given)[0] * float("nan"), loss(*given)[1])
        return step(self, *arguments)

    Run.train_step = watched  # type: ignore[method-assign]
    data = [Path(wanted["last_data"] if "last_data" in wanted and ranks.index == ranks.count - 1 else wanted["data"])]
    last = ranks.index == ranks.count - 1
    validation = [Path(wanted["last_validation"])] if "last_validation" in wanted and last else data
    ahead, monotonic = wanted.get("clock", 0.0) * last, time.monotonic
    loop.time = SimpleNamespace(monotonic=lambda: monotonic() + ahead)  # type: ignore[assignment]
    model = config_class(**plain_settings(wanted["model"]))
    config = replace(TrainConfig(), **wanted["train"])
    options = {"model_config": model, "config": config, "validation": validation, "device": "cpu", "ranks": ranks}
    budget, out = Budget(steps=wanted["steps"]), Path(wanted["out"])
    train(wanted["family"], data, out, budget, anneal=wanted.get("anneal", False), **options)  # type: ignore[arg-type]


def process(index: int, port: int, wanted: dict[str, Any]) -> int:
    warnings.simplefilter("error")
    own = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": wanted["count"], "LOCAL_WORLD_SIZE": wanted["count"]}
    os.environ.update({name: str(value) for name, value in own.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        with torchrun_ranks("cpu") as ranks:
            run(ranks, wanted)
    except TrainingError as error:
        print(f"fewbits: {error}")
        return 1
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def results(wanted: dict[str, Any]) -> list[tuple[int, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [tempfile.TemporaryFile() for _ in range(wanted["count"])]  # noqa: SIM115
    pids = []
    for index, file in enumerate(files):
        pid = os.fork()
        if not pid:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = 99
            try:
                code = process(index, port, wanted)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    for file in files:
        file.seek(0)
    return [(code, file.read().decode()) for code, file in zip(codes, files, strict=True)]


if __name__ == "__main__":
    print(json.dumps([results(wanted) for wanted in json.load(sys.stdin)]))
