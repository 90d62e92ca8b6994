#!/usr/bin/env python3
"""A TCP proxy that makes an answer late: half of the delay on the way there, half on the way back.

  proxy.py LISTEN:PORT TARGET:PORT CONTROL_FILE

The control file holds the delay in milliseconds. SIGHUP reads it again. "delay MS" on standard output says that a delay
is in force, the first time that the proxy listens, which it does once the target accepts connections. What was read under
an older delay keeps it, and nothing overtakes. A new connection is not delayed, only what goes over it.
"""
import asyncio, signal, sys, time

CHUNK_BYTES = 65536
TARGET_TIMEOUT_S = 20


class Proxy:
    def __init__(self, target, control):
        self.target, self.control, self.half_s, self.tasks = target, control, 0.0, set()

    def read_delay(self):
        with open(self.control) as f: ms = float(f.read())
        self.half_s = ms / 2000
        print(f"delay {ms:g}", flush=True)

    async def deliver(self, queue, writer):
        """Writes what was read when its time has come, and the end of the stream like data."""
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0, due - time.monotonic()))
            if not data: break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof(): writer.write_eof()

    async def pass_on(self, reader, writer):
        queue, last = asyncio.Queue(), 0.0
        delivery = asyncio.create_task(self.deliver(queue, writer))
        try:
            data = b"-"
            while data:
                data = await reader.read(CHUNK_BYTES)
                last = max(last, time.monotonic() + self.half_s)
                queue.put_nowait((last, data))
            await delivery
        finally:
            delivery.cancel()

    async def connection(self, reader, writer):
        far_writer = None
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            await asyncio.gather(self.pass_on(reader, far_writer), self.pass_on(far_reader, writer))
        except OSError:
            pass                                  # one side is gone: so is the connection
        finally:
            for w in (writer, far_writer):
                if w: w.close()

    def accept(self, reader, writer):
        task = asyncio.ensure_future(self.connection(reader, writer))
        self.tasks.add(task)                      # else a task may be collected while it runs
        task.add_done_callback(self.tasks.discard)


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


async def wait_for(target):
    end = time.monotonic() + TARGET_TIMEOUT_S
    while True:
        try:
            _, writer = await asyncio.open_connection(*target)
            return writer.close()
        except OSError as why:
            if time.monotonic() > end: sys.exit(f"no answer at {target[0]}:{target[1]}: {why}")
            await asyncio.sleep(0.05)


async def main(listen, target, control):
    proxy = Proxy(address(target), control)
    await wait_for(proxy.target)
    server = await asyncio.start_server(proxy.accept, *address(listen))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, proxy.read_delay)
    loop.add_signal_handler(signal.SIGTERM, lambda: sys.exit(0))
    proxy.read_delay()
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 4: sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
