"""Sends one batch's requests to servers, each taking the next as soon as it is free.

Leaves out what is asked (`rollouts/servers/jobs.py`), and what becomes of a lost server and of what
it had answered (`rollouts/servers/engine.py`).
"""

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from pipelines.rollouts.concurrency import Concurrency
from pipelines.rollouts.servers.client import ReplicaLostError
from pipelines.rollouts.servers.replica import Server

HEARTBEAT_SECONDS = 1.0
T = TypeVar("T")


class Dispatch(Generic[T]):
    """One batch: what is still to ask, who answered what, and who was lost.

    Senders, several per server, take requests from one queue. All of this state is guarded by one
    condition, on which a sender waits while its server has as many requests as it may.

    Args:
        servers: at least one.
        todo: the requests' indices.
        ask: makes one request of a server, by its index.
        concurrency: limits the requests in flight, per server.

    Attributes:
        answers: by server's label, then by index.
        lost: by server's label, why.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        todo: Sequence[int],
        ask: Callable[[Server, int], T],
        concurrency: Concurrency,
    ) -> None:
        self.servers, self.concurrency = servers, concurrency
        self.answers: dict[str, dict[int, T]] = {server.label: {} for server in servers}
        self.lost: dict[str, str] = {}
        self._ask, self._todo = ask, deque(todo)
        self._in_flight: Counter[str] = Counter()
        self._stopped = False  # by an error or the user: nothing more is sent
        self._changed = threading.Condition()
        self._num_senders = min(concurrency.most, math.ceil(len(todo) / len(servers)))

    def run(self) -> None:
        """Send everything, and wait until each request is answered or its server is lost.

        Raises:
            Exception: the first of `ask`, but for `ReplicaLostError`: the caller's mistake.
        """
        pool = ThreadPoolExecutor(self._num_senders * len(self.servers))
        senders = {
            pool.submit(self._send, server): server
            for server in self.servers
            for _ in range(self._num_senders)
        }
        try:
            self._watch(senders)
        finally:  # also where the user pressed Ctrl-C: no thread may wait for a server
            self._stop()
            for server in _unfinished(senders):
                server.client.abort()
            pool.shutdown()
        for sender in senders:
            sender.result()

    def _send(self, server: Server) -> None:
        """One of the senders of a server."""
        while (index := self._take(server)) is not None:
            try:
                answer = self._ask(server, index)
            except ReplicaLostError as error:
                self._lose(server, str(error))
            except Exception:  # raised by `run`; no other sender may wait for ever
                self._stop()
                raise
            else:
                with self._changed:
                    self.answers[server.label][index] = answer
                    self._in_flight[server.label] -= 1
                    self._changed.notify_all()

    def _take(self, server: Server) -> int | None:
        """The next request, as soon as one more may be in flight; None if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over(server) or self._has_room(server))
            if self._is_over(server):
                return None
            self._in_flight[server.label] += 1
            return self._todo.popleft()

    def _is_over(self, server: Server) -> bool:
        return self._stopped or not self._todo or server.label in self.lost

    def _has_room(self, server: Server) -> bool:
        return self._in_flight[server.label] < self.concurrency.limit

    def _lose(self, server: Server, reason: str) -> None:
        with self._changed:
            self.lost.setdefault(server.label, reason)
            self._changed.notify_all()

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _watch(self, senders: dict[Future[None], Server]) -> None:
        """Wait for the senders, asking engines that still work whether they live."""
        waiting = set(senders)
        while waiting:
            _, waiting = wait(waiting, HEARTBEAT_SECONDS)
            self.concurrency.poll(max(server.client.num_open for server in self.servers))
            with self._changed:
                self._changed.notify_all()  # the limit may have risen
            for server in _unfinished(senders):
                if server.label not in self.lost and not server.heartbeat():
                    self._lose(server, "its engine does not answer")
                    server.client.abort()


def _unfinished(senders: dict[Future[None], Server]) -> list[Server]:
    """Servers with a sender that is still at work."""
    return list({id(server): server for f, server in senders.items() if not f.done()}.values())
