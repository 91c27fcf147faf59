"""Settings for all tests: hypothesis finds the same examples in every run, and what was learned
of this machine before does not turn plans."""

import os
import signal
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lepton-pipe-tests-")

# A shell that starts the tests in the background has Ctrl-C ignored in them, and in the runs that
# they interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
