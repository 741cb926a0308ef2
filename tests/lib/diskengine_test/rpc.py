"""A JSON-RPC 2.0 client over a unix socket, one request at a time."""

import json
import socket

from .deadline import scaled

DEFAULT_TIMEOUT_S = 20
RECV_BYTES = 65536


class RpcError(Exception):
    """The server answered with an error object."""

    def __init__(self, method, error):
        self.method = method
        self.code = error.get("code")
        self.message = error.get("message")
        self.data = error.get("data")
        super().__init__(f"{method}: error {self.code}: {self.message}")


class RpcClient:
    """client.call("bdev_malloc_create", num_blocks=64, block_size=512), or client.bdev_malloc_create(...)."""

    def __init__(self, path, timeout_s=DEFAULT_TIMEOUT_S):
        self.path = path
        self.timeout_s = timeout_s
        self._socket = None
        self._received = b""
        self._next_id = 1

    def connect(self):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(scaled(self.timeout_s))
        self._socket.connect(self.path)
        self._received = b""

    def close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def call(self, method, _timeout_s=None, **params):
        """The result of the call. Raises RpcError for an error object, OSError when the server is gone."""
        request = {"jsonrpc": "2.0", "method": method, "id": self._next_id}
        self._next_id += 1
        if params:
            request["params"] = params
        self.send_text(json.dumps(request))
        answer = self.receive(_timeout_s)
        if answer.get("id") != request["id"]:
            raise ConnectionError(f"{method}: answer has id {answer.get('id')!r}, the request had {request['id']}")
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    def send_text(self, text):
        """Sends raw text, for tests that send something wrong."""
        if self._socket is None:
            self.connect()
        self._socket.sendall(text.encode())

    def receive(self, timeout_s=None):
        """The next JSON document the server sends."""
        self._socket.settimeout(scaled(timeout_s or self.timeout_s))
        decoder = json.JSONDecoder()
        while True:
            text = self._received.decode(errors="replace").lstrip()
            if text:
                try:
                    document, end = decoder.raw_decode(text)
                    self._received = text[end:].encode()
                    return document
                except json.JSONDecodeError:
                    pass
            chunk = self._socket.recv(RECV_BYTES)
            if not chunk:
                self.close()
                raise ConnectionError(f"{self.path}: closed by the server; unparsed: {text[:200]!r}")
            self._received += chunk

    def __getattr__(self, method):
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda **params: self.call(method, **params)
