"""`gpu-autoscaler` on a clock that it shares with its test, and that is faster than real.

    python fast_cli.py CLOCK ARGUMENTS...

CLOCK is a pickled one in hexadecimal digits: a monotonic clock counts alike in all processes.
"""

import pickle
import sys
from unittest.mock import patch

from gpu_autoscaler import cli
from gpu_autoscaler.domain.clock import Clock


def command(clock: Clock, *words: str) -> tuple[str, ...]:
    """The command line that starts this."""
    return (sys.executable, __file__, pickle.dumps(clock).hex(), *words)


if __name__ == "__main__":
    shared: Clock = pickle.loads(bytes.fromhex(sys.argv.pop(1)))
    with patch.object(cli, "SystemClock", lambda: shared):
        cli.main()
