"""What worker processes share: the process that they are forked from imports this module, see `server`."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading

from ai_hub.imports import skip_type_checks

#: The writing end is open in this process alone: workers see how it closes when this process ends.
_reader, _writer = multiprocessing.Pipe(duplex=False)


def _start_worker() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _writer.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker, after its requests under way, once the process that forked it is gone.

    Others are started then, as if all workers had ended.
    """
    _reader.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)


# Only this process learns how workers end, so it stays until the last of them has, also when the signal is
# sent to the whole process group.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.register_at_fork(after_in_child=_start_worker)

skip_type_checks()

import ai_hub.api.app  # noqa: E402, F401  # without the checks

gc.collect()
# collections in workers would write to each object, and so copy its page
gc.freeze()
