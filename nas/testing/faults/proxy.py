"""A TCP proxy before a database server, whose connections can be cut, refused or held up."""

import contextlib
import select
import socket
import struct
import threading
import time

LINGER = struct.pack("ii", 1, 0)  # closing resets the connection, as a dead machine or a firewall does


class Proxy:
    """Listens on a port of this machine, and hands on what comes to a server."""

    def __init__(self, host: str, port: int):
        self.sent = 0  # bytes, by all clients
        self._server = (host, port)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._one, self._refuses_until, self._holds_until = threading.Lock(), 0.0, 0.0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float = 0.0) -> None:
        """Resets all connections, and refuses others for so long."""
        self._refuses_until = time.monotonic() + seconds
        with self._one:
            pairs, self._pairs = self._pairs, []
        for one in (each for pair in pairs for each in pair):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                one.shutdown(socket.SHUT_RD)  # awakes the thread that waits for it, which alone can close it

    def hold(self, seconds: float) -> None:
        """Nothing goes through for so long, and nothing is lost."""
        self._holds_until = time.monotonic() + seconds

    def close(self) -> None:
        self._listening.close()
        self.cut(3600.0)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if time.monotonic() < self._refuses_until:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                client.close()
                continue
            try:
                server = socket.create_connection(self._server, timeout=30)
            except OSError:
                client.close()
                continue
            with self._one:
                self._pairs.append((client, server))
            threading.Thread(target=self._hand_on, args=(client, server), daemon=True).start()

    def _hand_on(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with client, server, contextlib.suppress(OSError):
            while True:
                for one in select.select([client, server], [], [])[0]:
                    data = one.recv(2**16)
                    while time.monotonic() < self._holds_until:
                        time.sleep(0.01)
                    if not data:
                        return
                    other[one].sendall(data)
                    self.sent += len(data) if one is client else 0
