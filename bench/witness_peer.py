"""witness-log as a C2SP witness and as a C2SP log; runs in the peers' environment.

`witness_peer.py witness LOG_VKEY...` cosigns those logs: prints {"url", "vkey"} and serves until
its stdin ends. `witness_peer.py log` is a log: prints {"origin", "vkey"}, then takes one JSON
request a line, {"append": N, "submit": URL, "old": SIZE}, and prints {"status", "type", "body"}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import witness_log


def witness(vkeys: list[str]) -> None:
    """Serve add-checkpoint for the logs of those keys."""
    service = witness_log.WitnessService.new("peer.example/witness", os.urandom(32))
    for vkey in vkeys:
        assert service.add_log(vkey.partition("+")[0], vkey)

    class Handler(BaseHTTPRequestHandler):
        """One call."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            status, kind, answer = service.handle_add_checkpoint_http(body)
            data = answer.encode()
            self.send_response(status if self.path == "/prefix/add-checkpoint" else 404)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_given: Any) -> None:
            """Nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    vkey = service.vkey() if callable(service.vkey) else service.vkey
    say({"url": f"http://127.0.0.1:{server.server_port}/prefix", "vkey": vkey})
    sys.stdin.read()
    server.shutdown()


def log() -> None:
    """A log that hands its checkpoints in."""
    made = witness_log.WitnessLog.generate()
    origin = made.canonical_origin()
    say({"origin": origin, "vkey": made.c2sp_vkey(origin)})
    for line in sys.stdin:
        asked = json.loads(line)
        for number in range(asked["append"]):
            made.append_intent(witness_log.canonical_json({"n": number}))
        body = made.add_checkpoint_body(asked["old"]).encode()
        request = urllib.request.Request(asked["submit"] + "/add-checkpoint", body)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, kind, data = answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as error:
            status, kind, data = error.code, error.headers["content-type"], error.read()
        say({"status": status, "type": kind, "body": data.decode()})


def say(value: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "witness":
        witness(sys.argv[2:])
    else:
        log()
