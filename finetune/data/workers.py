"""Processes that encode rows beside this one, where there are many: each is told shard after shard on its stdin.

They are started as commands of their own, not forked, because the tokenizer's library may have threads already. What
they are told and say are lines of JSON. A worker whose stdin ends has lost its parent, and ends at once.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from finetune.data.encode import Encoder, tokenizer_digest
from finetune.data.shards import Counts, SplitPlan, encode_shard
from finetune.data.spool import Spool
from finetune.errors import Fault

MANY_ROWS = 10_000  # from which on starting processes, which takes a second, saves time
MOST = 16  # processes; one that reads the rows cannot keep more of them busy
JOB_FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """How rows are encoded."""

    learn: str
    max_length: int
    stop_ids: tuple[int, ...]
    on_long: str
    tokenizer: str  # its digest

    def encoder(self, tokenizer: Any) -> Encoder:
        """What encodes them."""
        return Encoder(tokenizer, self.learn, self.max_length, self.stop_ids)


class Workers:
    """A process for each core, once they are started; without them the rows are encoded in this one."""

    def __init__(self, folder: Path, job: Job, tokenizer: Any) -> None:
        self._folder, self._job, self._tokenizer = folder, job, tokenizer
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def start(self) -> None:
        """Start the processes, if there is more than one core."""
        count = min(cores(), MOST)
        if count == 1:
            return
        folder = self._folder / "job"
        self._tokenizer.save_pretrained(str(folder))
        (folder / JOB_FILE).write_text(json.dumps(asdict(self._job)), encoding="utf-8")
        # Several processes with threads of their own would only stand in each other's way.
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "finetune.data.workers", str(folder)]
        for _ in range(count):
            # In a group of its own: an interruption of this process leaves it to this process.
            self._processes.append(
                subprocess.Popen(
                    command, env=environment, process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        self._processes = []

    def encode(self, plans: Sequence[SplitPlan], encoder: Encoder) -> list[Counts]:
        """Write the files of all splits; gives what became of the rows of each file, in order."""
        shards = [(path, plan.spool, part) for plan in plans for path, part in plan.shards()]
        if len(shards) > 1 and self._all_ready():
            return self._shared_out([_left(self._folder, number, *shard) for number, shard in enumerate(shards)])
        return [encode_shard(path, spool, part, encoder, self._job.on_long) for path, spool, part in shards]

    def _all_ready(self) -> bool:
        """Whether there are processes, and all have the very tokenizer that this one has."""
        return bool(self._processes) and all(_hear(process)["ready"] for process in self._processes)

    def _shared_out(self, tasks: Sequence[dict[str, Any]]) -> list[Counts]:
        results: dict[int, Counts] = {}
        waiting = iter(tasks)
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, process)
                _tell(process, next(waiting, None))
            while len(results) < len(tasks):
                for key, _ in selector.select():
                    said = _hear(key.data)
                    _tell(key.data, next(waiting, None))
                    faults = [Fault(**fault) for fault in said["counts"]["faults"]]
                    results[said["number"]] = Counts(**{**said["counts"], "faults": faults})
        return [results[number] for number in range(len(tasks))]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _left(folder: Path, number: int, path: Path, spool: Spool, indices: Any) -> dict[str, Any]:
    """A task as a worker is told it; the places of its rows are left in a file."""
    order = folder / f"{number}.npy"
    np.save(order, indices, allow_pickle=False)
    return {"number": number, "path": str(path), "spool": str(spool.path), "order": str(order)}


def _tell(process: subprocess.Popen[bytes], task: dict[str, Any] | None) -> None:
    if task is not None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()


def _hear(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise RuntimeError(f"a process that prepares rows ended with code {process.wait()}; what it said is above")
    said: dict[str, Any] = json.loads(line)
    if "errno" in said:
        raise OSError(said["errno"], os.strerror(said["errno"]), said["path"])
    if "memory" in said:
        raise MemoryError("a process that prepares rows ran out of memory")
    return said


def main(folder: Path) -> None:
    """What a worker does: shard after shard, as it is told."""
    from transformers import PreTrainedTokenizerFast

    told = _told()
    kept = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    job = Job(**{**kept, "stop_ids": tuple(kept["stop_ids"])})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    _say({"ready": tokenizer_digest(tokenizer) == job.tokenizer})
    encoder = job.encoder(tokenizer)
    spools: dict[str, Spool] = {}
    for line in told:
        task = json.loads(line)
        try:
            if task["spool"] not in spools:
                spools[task["spool"]] = Spool(Path(task["spool"]))
            indices = np.load(task["order"], allow_pickle=False)
            counts = encode_shard(Path(task["path"]), spools[task["spool"]], indices, encoder, job.on_long)
        except OSError as error:
            _say({"errno": error.errno, "path": task["path"]})
        except MemoryError:
            _say({"memory": True})
        else:
            _say({"number": task["number"], "counts": asdict(counts)})


def _say(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


def _told() -> Iterator[str]:
    """The lines on stdin; the end of it ends the process, whatever it is doing: the parent has died."""
    lines: SimpleQueue[str] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield lines.get()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
