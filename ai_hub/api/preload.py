"""What worker processes share: the process that they are forked from imports this module, see `server`."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

from ai_hub.imports import skip_type_checks

_POLL_S = 1.0


def _start_worker() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker, after its requests under way, once the process that forked it is gone.

    Others are started then, as if all workers had ended.
    """
    while os.getppid() == parent:
        time.sleep(_POLL_S)
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
