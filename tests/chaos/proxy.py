"""A TCP proxy that can be made into a bad network: one listening port for one connection path.

What is held back while a path is bad is either delivered late (as TCP does after a partition) or lost,
and then the connection is reset (as TCP does when it gave up).
"""
import asyncio
import random
import socket
import struct
import threading

CHUNK = 65536


class Path:
    """One port. `up` is the direction from whoever connects to the service, `down` the other one."""

    def __init__(self, net, target):
        self.net, self.target = net, target  # target(): (host, port)
        self.port = None
        self.open = {"up": asyncio.Event(), "down": asyncio.Event()}
        for event in self.open.values():
            event.set()
        self.lose = False  # what comes while closed is thrown away
        self.delay = 0.0
        self.lossy = set()  # connections that lost something
        self.connections = set()

    # ---- from other threads ----

    def block(self, directions=("up", "down"), lose=False):
        self.net.call(self._block, directions, lose)

    def slow(self, seconds):
        self.net.call(setattr, self, "delay", seconds)

    def heal(self):
        self.net.call(self._heal)

    def reset(self):
        """Cuts every connection with RST."""
        self.net.call(self._reset)

    def half_close(self):
        """Whoever connected is told that the service has finished; the other direction stays."""
        self.net.call(self._half_close)

    # ---- in the loop ----

    def _block(self, directions, lose):
        self.lose = lose
        for d in directions:
            self.open[d].clear()

    def _heal(self):
        self.delay, self.lose = 0.0, False
        for c in list(self.lossy):
            self._abort(c)
        self.lossy.clear()
        for event in self.open.values():
            event.set()

    def _reset(self):
        for c in list(self.connections):
            self._abort(c)

    def _half_close(self):
        for near, _ in list(self.connections):
            if near.can_write_eof() and not near.is_closing():
                near.write_eof()

    @staticmethod
    def _abort(connection):
        for writer in connection:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, connection, reader, writer, direction):
        gate = self.open[direction]
        while data := await reader.read(CHUNK):
            if not gate.is_set():
                if self.lose:
                    self.lossy.add(connection)
                    continue
                await gate.wait()
            if self.delay:
                await asyncio.sleep(self.delay * random.random() * 2)
            writer.write(data)
            await writer.drain()
        await gate.wait()
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()

    async def serve(self, near_reader, near):
        try:
            for gate in self.open.values():
                await gate.wait()  # a partition: nobody answers
            far_reader, far = await asyncio.open_connection(*self.target())
        except OSError:
            self._abort((near,))
            return
        connection = (near, far)
        self.connections.add(connection)
        try:
            await asyncio.gather(self._pump(connection, near_reader, far, "up"),
                                 self._pump(connection, far_reader, near, "down"))
        except (OSError, RuntimeError):  # gone, or half closed by us
            pass
        finally:
            self.connections.discard(connection)
            self.lossy.discard(connection)
            for writer in connection:
                writer.close()


class Network:
    """All paths, served by one thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, fn, *arguments):
        self.loop.call_soon_threadsafe(fn, *arguments)

    def path(self, target):
        async def listen():
            p = Path(self, target)
            server = await asyncio.start_server(p.serve, "127.0.0.1", 0)
            p.port = server.sockets[0].getsockname()[1]
            return p
        return asyncio.run_coroutine_threadsafe(listen(), self.loop).result()
