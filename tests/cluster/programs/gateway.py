"""Answers GET /health, and ends as a gateway does."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from paceline.process.child import install_stop_signals, watch_parent


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
stop = threading.Event()
watch_parent(stop.set)
install_stop_signals(lambda _: stop.set())
server = HTTPServer((options["--host"], int(options["--port"])), Health)
threading.Thread(target=server.serve_forever, daemon=True).start()
stop.wait()
