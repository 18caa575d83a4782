"""The services of one worker, and those that follow them once the database was moved to another embedder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from memfast.bootstrap.ground import Ground
from memfast.bootstrap.readings import written
from memfast.bootstrap.services import Services, open_services
from memfast.bootstrap.stores import snapshots_folder
from memfast.errors import EmbedderChanged, MemfastError
from memfast.index.pool import unsave_all
from memfast.metrics import Meter

__all__ = ["Succession"]

_log = logging.getLogger("memfast")

RETRY_S = 1.0
"""Time until the next try where the following services could not be opened, in seconds."""

PATIENCE_S = 5.0
"""How long a request waits for the following services before it is refused, in seconds."""


class Succession:
    """Opens a worker's services for the generation of vectors that is current, and new ones when another is.

    Everything that knows vectors is made anew with them: embedder, caches, shards, store. So nothing of one generation
    can meet anything of another. Those of before stay open until nobody uses them.

    Args:
        site: what the parent made ready, maybe before the database was moved.
        meter: what the worker counts with, whatever services it has.
        install: is given the services that new requests are to use; what it gives returns when those of before it are
            not used any more.
    """

    def __init__(
        self, site: Ground, meter: Meter, install: Callable[[Services], AbstractAsyncContextManager[None]]
    ) -> None:
        self._site = site
        self._meter = meter
        self._install = install
        self._changed = asyncio.Condition()
        self.current: Services | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the context is open.

        Raises:
            StartError: the first services could not be opened.
        """
        stacks: list[contextlib.AsyncExitStack] = [await self._open()]
        watch = asyncio.create_task(self._watch(stacks))
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            for stack in reversed(stacks):
                await stack.aclose()

    async def after(self, services: Services) -> Services:
        """The services that follow these, whose generation was refused.

        Raises:
            EmbedderChanged: they did not come in time.
        """
        services.moved.set()
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(lambda: self.current is not services)
        except TimeoutError:
            raise EmbedderChanged(
                "the database was moved to another embedding model, which this worker could not take up yet; nothing "
                "was written",
                retry_after_s=int(PATIENCE_S),
                begun=False,
            ) from None
        assert self.current is not None
        return self.current

    async def _open(self) -> contextlib.AsyncExitStack:
        stack = contextlib.AsyncExitStack()
        try:
            services = await stack.enter_async_context(open_services(self._site, self._meter))
            await stack.enter_async_context(written(services, self._meter))
            await stack.enter_async_context(self._install(services))
            async with self._changed:
                self.current = services
                self._changed.notify_all()
        except BaseException:
            await stack.aclose()
            raise
        return stack

    async def _watch(self, stacks: list[contextlib.AsyncExitStack]) -> None:
        while True:
            assert self.current is not None
            await self.current.moved.wait()
            try:
                stacks.append(await self._open())
                _log.warning("embedding by %s from now on", self.current.embedder.model)
                await stacks[0].aclose()
                del stacks[0]
                await asyncio.to_thread(unsave_all, snapshots_folder(self._site.config))
            except MemfastError as error:
                _log.warning("the embedder that the database was moved to cannot be used: %s", error)
                await asyncio.sleep(RETRY_S)
            except Exception:  # noqa: BLE001 - a task's edge: the next try must come whatever this one met
                _log.exception("the services for another embedder could not be opened")
                await asyncio.sleep(RETRY_S)
