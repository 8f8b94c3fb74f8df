"""Load on an HTTP server, sent by a process of its own (`benchmarks.service_sender`).

A stream with a rate sends when its time has come, whatever is still unanswered, and counts from the moment
a request should have left: a server that stalls shows in every request it kept waiting. A stream with
connections asks again as soon as it is answered.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence  # dataclass fields
from dataclasses import asdict, dataclass, field
from typing import Self

import numpy as np

from benchmarks.results import ROOT

#: First line of the process that sends.
BEGUN = "begun"


@dataclass(frozen=True)
class Stream:
    """Requests of one kind, sent one after the other, from the first again after the last."""

    name: str
    method: str
    path: str
    bodies: Sequence[str]
    seconds: float
    #: requests a second; or else
    rate: float = 0.0
    #: clients that ask again as soon as they are answered
    connections: int = 0
    #: seconds after which a client gives up
    patience: float = 30.0
    #: of the first body, the second, …, and from the first again
    headers: Sequence[Mapping[str, str]] = ({},)
    #: pieces of an answer to look for; the outcome tells by bits which were there
    marks: Sequence[str] = ()


@dataclass
class Outcome:
    """What became of a stream's requests, one entry each."""

    #: when it should have been sent, in seconds of the machine's monotonic clock
    due: list[float] = field(default_factory=list)
    #: from then until the answer was complete
    seconds: list[float] = field(default_factory=list)
    #: HTTP status; 0: no answer
    status: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    #: of requests without an answer, by how it ended
    failures: dict[str, int] = field(default_factory=dict)
    #: the first body of each status
    samples: dict[str, str] = field(default_factory=dict)

    def percentile(self, percent: float) -> float:
        """Seconds within which so many of the requests were answered."""
        return float(np.percentile(self.seconds, percent))

    def count(self, mark: int) -> int:
        """Answers that held the mark of this number."""
        return sum(bits >> mark & 1 for bits in self.marks)

    def statuses(self) -> dict[int, int]:
        """Number of answers by status."""
        values, counts = np.unique(self.status, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


class Load:
    """Load that runs in a process of its own."""

    def __init__(self, port: int, streams: Sequence[Stream]) -> None:
        with tempfile.TemporaryFile("w+") as plan:
            json.dump({"port": port, "streams": [asdict(stream) for stream in streams]}, plan)
            plan.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.service_sender"],
                stdin=plan,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        # so that whoever has it knows that requests leave from now on
        if self._process.stdout is None or self._process.stdout.readline().strip() != BEGUN:
            raise RuntimeError("the load did not begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Send no more of what has a rate; what is under way is waited for."""
        self._process.terminate()

    def outcomes(self) -> dict[str, Outcome]:
        """What became of it, by stream, once all is sent and answered."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        return {name: Outcome(**found) for name, found in json.loads(out).items()}


def run(port: int, *streams: Stream) -> dict[str, Outcome]:
    """Send all streams at once and wait for their end."""
    with Load(port, streams) as load:
        return load.outcomes()
