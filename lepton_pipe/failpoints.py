"""Places where a test can end the process, to see what a crash there leaves behind.

``LEPTON_FAILPOINT=publish:3`` kills this process, as ``kill -9`` does, when it comes to step 3 of
publishing. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "LEPTON_FAILPOINT"


def failpoint(name: str, step: int) -> None:
    """End the process here if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if wanted is not None and wanted == f"{name}:{step}":
        os.kill(os.getpid(), signal.SIGKILL)
