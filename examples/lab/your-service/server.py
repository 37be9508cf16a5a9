#!/usr/bin/env python3
"""A small key-value service, as somebody writes it in an afternoon.

    server.py --name n1 --nodes n1,n2,n3 --port 8080 --data /var/lib/kv

The first node leads: it takes all writes, keeps them in a journal, and sends
them to the others. Any node can be asked:

    GET  /kv/KEY                             200 {"value": ...} or 404
    PUT  /kv/KEY   any JSON value            204
    POST /kv/KEY   {"old": ..., "new": ...}  204, or 409 where the value is another
    GET  /role                               200 {"role": "leader"} or {"role": "follower"}

It restarts from its journal, copes with a journal whose end is torn, catches up
followers that were away, and passes all its unit tests. It has two faults that
they do not show. Each has a switch that mends it:

    --fsync         a write is on the disk before it is acknowledged. Without it,
                    a machine that loses power loses writes that were acknowledged.
    --reads leader  followers ask the leader. Without it they answer from their
                    own copy, which may be old: --reads local, the default.
"""

import argparse
import http.client
import http.server
import json
import os
import socketserver
import threading

TIMEOUT = 1.0  # seconds, for everything that nodes ask each other


class Store:
    """What one node knows: all writes in order, and what they add up to."""

    def __init__(self, path, fsync):
        self.lock = threading.Lock()
        self.grown = threading.Condition(self.lock)
        self.log, self.values = [], {}
        self.fsync = fsync
        self.journal = self.open(path) if path else None

    def open(self, path):
        journal = open(path, "ab+", buffering=0)
        if self.fsync:  # the file's name has to last as well
            directory = os.open(os.path.dirname(path), os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        journal.seek(0)
        good = 0
        for line in journal:
            try:
                key, value = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, TypeError):
                break  # the end was never acknowledged: it was being written
            self.apply(key, value)
            good += len(line)
        journal.truncate(good)
        return journal

    def apply(self, key, value):
        self.log.append((key, value))
        self.values[key] = value

    def read(self, key):
        with self.lock:
            return self.values.get(key)

    def write(self, key, value):
        with self.lock:
            self.append(key, value)

    def swap(self, key, old, new):
        with self.lock:
            if self.values.get(key) != old:
                return False
            self.append(key, new)
            return True

    def append(self, key, value):
        try:
            line = json.dumps([key, value]).encode() + b"\n"
            if self.journal.write(line) != len(line):
                raise OSError("the journal is cut short")
            if self.fsync:
                os.fsync(self.journal.fileno())
        except OSError:
            os._exit(1)  # what the journal holds now is not known: start again from it
        self.apply(key, value)
        self.grown.notify_all()

    def take(self, start, entries):
        """A follower takes entries from the leader, and says which it wants next."""
        with self.lock:
            if start <= len(self.log):
                for key, value in entries[len(self.log) - start :]:
                    self.apply(key, value)
            return len(self.log)

    def since(self, start):
        """Entries from start on; waits a little where there are none."""
        with self.lock:
            if start >= len(self.log):
                self.grown.wait(0.2)
            start = min(start, len(self.log))
            return start, self.log[start : start + 500]


def call(node, port, method, path, body=None):
    connection = http.client.HTTPConnection(node, port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def replicate(store, follower, port):
    """The leader sends one follower all that it does not have, for ever."""
    start = 0
    while True:
        start, entries = store.since(start)
        try:
            _, answer = call(follower, port, "POST", "/replicate", json.dumps([start, entries]))
            start = json.loads(answer)
        except (OSError, http.client.HTTPException, ValueError):
            threading.Event().wait(0.1)


class Handler(http.server.BaseHTTPRequestHandler):
    store = leader = me = port = reads = None

    def answer(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.raw(status, body)

    def raw(self, status, body):
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # whoever asked has gone

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def forward(self, method, body=None):
        try:
            self.raw(*call(self.leader, self.port, method, self.path, body))
        except ConnectionRefusedError:
            self.answer(503, {"error": "the leader is down"})  # it has not seen the request
        except (OSError, http.client.HTTPException):
            self.answer(504, {"error": "the leader does not answer"})

    def do_GET(self):
        if self.path == "/role":
            self.answer(200, {"role": "leader" if self.me == self.leader else "follower"})
        elif not self.path.startswith("/kv/"):
            self.answer(404, {"error": "no such page"})
        elif self.me != self.leader and self.reads == "leader":
            self.forward("GET")
        else:
            value = self.store.read(self.path)
            self.answer(404) if value is None else self.answer(200, {"value": value})

    def do_PUT(self):
        body = self.body()
        if self.me != self.leader:
            return self.forward("PUT", body)
        self.store.write(self.path, json.loads(body))
        self.answer(204)

    def do_POST(self):
        body = self.body()
        if self.path == "/replicate":
            return self.answer(200, self.store.take(*json.loads(body)))
        if self.me != self.leader:
            return self.forward("POST", body)
        swap = json.loads(body)
        done = self.store.swap(self.path, swap["old"], swap["new"])
        self.answer(204 if done else 409)

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--nodes", required=True, help="all nodes, with commas; the first leads")
    parser.add_argument("--listen", default="", help="address; default: all")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--data", default=".")
    parser.add_argument("--fsync", action="store_true")
    parser.add_argument("--reads", choices=["local", "leader"], default="local")
    args = parser.parse_args()

    nodes = args.nodes.split(",")
    leads = args.name == nodes[0]
    Handler.store = Store(os.path.join(args.data, "journal") if leads else None, args.fsync)
    Handler.me, Handler.leader, Handler.port, Handler.reads = args.name, nodes[0], args.port, args.reads
    if leads:
        for follower in nodes[1:]:
            threading.Thread(target=replicate, args=(Handler.store, follower, args.port), daemon=True).start()
    with Server((args.listen, args.port), Handler) as server:
        print(f"{args.name}: listening on port {args.port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
