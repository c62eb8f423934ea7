"""A client that claims devices at the very moment it is told to, and says what came of it.

``python allocator.py HOST PORT``: orders on standard input, a JSON object a line; one answer a
line. ``{"do": "claim", "at": T, ...}`` sends at time T and answers with when it was sent and
answered; ``{"do": "release", ...}`` gives back. Plain sockets and threads: no code of the
product, nothing between the order and the wire.
"""

from __future__ import annotations

import http.client
import json
import queue
import sys
import threading
import time
from typing import Any

THREADS = 8
HEADERS = {
    "x-auth-token": "admin",
    "content-type": "application/json",
    "openstack-api-version": "placement 1.36",
}


class Client(threading.Thread):
    """One connection to Placement, used by one thread."""

    def __init__(self, host: str, port: int, orders: queue.SimpleQueue[Any]) -> None:
        super().__init__(daemon=True)
        self.address = host, port
        self.orders = orders
        self.connection = http.client.HTTPConnection(host, port, timeout=60)

    def run(self) -> None:
        while True:
            order = self.orders.get()
            answer = self._claim(order) if order["do"] == "claim" else self._release(order)
            line = json.dumps({**order, **answer}) + "\n"
            sys.stdout.write(line)
            sys.stdout.flush()

    def _claim(self, order: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(
            {
                "allocations": {order["provider"]: {"resources": {order["rc"]: 1}}},
                "project_id": "race",
                "user_id": "race",
                "consumer_generation": None,
            }
        )
        wait = order["at"] - time.time()
        if wait > 0:
            time.sleep(wait)
        asked = time.time()
        status = self._call("PUT", order["consumer"], body)
        return {"asked": asked, "got": time.time(), "status": status}

    def _release(self, order: dict[str, Any]) -> dict[str, Any]:
        back = time.time()
        status = self._call("DELETE", order["consumer"], None)
        return {"back": back, "done": time.time(), "status": status}

    def _call(self, method: str, consumer: str, body: str | None) -> int:
        for _ in range(3):
            try:
                self.connection.request(method, f"/allocations/{consumer}", body, HEADERS)
                answer = self.connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.connection.close()
                if method == "PUT":
                    return 0  # nobody knows; the judge reads the database in the end
            else:
                return answer.status
        return 0


def main() -> None:
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(THREADS):
        Client(sys.argv[1], int(sys.argv[2]), orders).start()
    for line in sys.stdin:
        orders.put(json.loads(line))


if __name__ == "__main__":
    main()
