"""The smallest stand-in for Neutron: every collection is empty, quotas have no limit.

Run as ``neutron.py PORT``. It is enough for servers without networks.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_QUOTAS = ("port", "network", "security_group", "floatingip")


class _Neutron(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        match [part for part in self.path.split("?")[0].split("/") if part]:
            case []:
                link = {"rel": "self", "href": f"http://{self.headers.get('Host')}/v2.0/"}
                self._reply(
                    200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}
                )
            case ["v2.0"]:
                self._reply(200, {"resources": []})
            case ["v2.0", "quotas", *_]:
                self._reply(200, {"quota": dict.fromkeys(_QUOTAS, -1)})
            case ["v2.0", name]:
                self._reply(200, {name.replace("-", "_"): []})
            case _:
                error = {"type": "NotFound", "message": "there is nothing here", "detail": ""}
                self._reply(404, {"NeutronError": error})

    def do_DELETE(self) -> None:
        self._reply(204, None)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Keep quiet."""

    def _reply(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Neutron).serve_forever()
