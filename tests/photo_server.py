"""A web server of photos on loopback, for tests: with ETags, and with everything that goes wrong."""

import contextlib
import gzip
import hashlib
import http.server
import io
import threading
import time

import numpy as np
from PIL import Image


def jpeg(seed):
    """Returns a small JPEG of one colour."""
    colour = np.random.default_rng(seed).integers(0, 256, (1, 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colour).resize((16, 16)).save(file, "JPEG")
    return file.getvalue()


class PhotoServer(http.server.ThreadingHTTPServer):
    """Serves `photos`, bytes by path, and notes all `requests`, (path, headers).

    `faults` says what goes wrong with a path: a list for its requests in turn, then all is well,
    or one fault for all of them. A fault is a status, (status, headers), or a name of
    `Handler.do_<name>`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, photos=(), host="127.0.0.1"):
        super().__init__((host, 0), Handler)
        self.photos, self.faults, self.requests = dict(photos), {}, []
        self.etags, self.delay = True, 0.0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.at_a_time = self.most_at_a_time = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self):
        return [path for path, _ in self.requests]

    def stop(self):
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers)))
            server.at_a_time += 1
            server.most_at_a_time = max(server.most_at_a_time, server.at_a_time)
            fault = server.faults.get(self.path)
            if isinstance(fault, list):
                fault = fault.pop(0) if fault else None
        time.sleep(server.delay)
        # The client may count itself out as soon as it has the last byte.
        with server.lock:
            server.at_a_time -= 1
        with contextlib.suppress(ConnectionError):
            self.answer(fault)

    def answer(self, fault):
        if isinstance(fault, str):
            getattr(self, f"do_{fault}")()
        elif fault:
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self.send(b"sorry", status, **headers)
        elif self.path not in self.server.photos:
            self.send(b"sorry", 404)
        else:
            body = self.server.photos[self.path]
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            if not self.server.etags:
                self.send(body)
            elif self.headers["If-None-Match"] == etag:
                self.send(b"", 304, ETag=etag)
            else:
                self.send(body, ETag=etag)

    def send(self, body, status=200, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        usual = {"Content-Type": "image/jpeg", "Content-Length": len(body)}
        for name, value in (usual | headers).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_stall(self):
        self.send(jpeg(0)[:50], Content_Length=1000)
        self.server.stopped.wait(30)

    def drip(self, contents):
        for byte in contents:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.stopped.wait(0.05):
                return

    def do_drip(self):
        self.send(b"", Content_Length=1000)
        self.drip(b"x" * 1000)

    def do_drip_until_closed(self):
        self.send(b"", Content_Length=None, Connection="close")
        self.close_connection = True
        self.drip(b"x" * 1000)

    def do_drip_header(self):
        self.drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000)

    def do_cut_off(self):
        self.send(jpeg(0)[:100], Content_Length=len(jpeg(0)))
        self.close_connection = True

    def do_more_than_said(self):
        self.send(jpeg(0), Content_Length=100)

    def do_huge(self):
        self.send(b"", Content_Length=10**12)
        self.close_connection = True

    def do_endless(self):
        self.send(b"", Content_Length=None, Transfer_Encoding="chunked")
        while not self.server.stopped.is_set():
            self.wfile.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    def do_html(self):
        self.send(b"\n <!DOCTYPE html><html>Log in</html>")

    def do_text(self):
        self.send(jpeg(0), Content_Type="text/html; charset=utf-8")

    def do_bomb(self):
        self.send(gzip.compress(bytes(10**7)), Content_Encoding="gzip")

    def do_empty(self):
        self.send(b"")

    def do_circle(self):
        self.send(b"", 302, Location=self.path)

    def do_to_file(self):
        self.send(b"", 302, Location="file:///etc/passwd")

    def do_nonsense(self):
        self.wfile.write(b"hello\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass
