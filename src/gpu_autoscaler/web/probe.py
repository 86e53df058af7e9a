"""`python -m gpu_autoscaler.web.probe`: 0 when the daemon in this container says that it is well.

For HEALTHCHECK, every half minute: it loads as little as it can.
"""

import http.client
import os
import sys

TIMEOUT_SECONDS = 4.0


def healthy(port: int) -> bool:
    """Whether /healthz on this port answers 200."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        asking.request("GET", "/healthz")
        return asking.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asking.close()


if __name__ == "__main__":
    sys.exit(not healthy(int(os.environ.get("PORT") or "8080")))
