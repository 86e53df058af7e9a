"""Removing machines with their volumes, and saying so: for `down` and `check --boot`."""

import asyncio
import math
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.markup import escape

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError, Transient
from gpu_autoscaler.domain.model import Instance, ServerState
from gpu_autoscaler.runtime.execute import AT_ONCE, WITHOUT_LEASE
from gpu_autoscaler.scaleway.api import ScalewayApi

POLL_SECONDS = 5.0
OFF_WITHIN_SECONDS = 300.0
"""A power-off took 45 s when recorded."""


class Removal:
    """Removes machines with their volumes, for as long as nobody else may act."""

    def __init__(
        self,
        scaleway: ScalewayApi,
        clock: Clock,
        console: Console,
        lease_left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """`lease_left`: seconds in which nobody else may act."""
        self._scaleway, self._lease_left = scaleway, lease_left
        self._clock, self._console = clock, console

    async def remove(self, instances: Iterable[Instance], zones: Iterable[str]) -> bool:
        """All of these, and every free volume of the fleet; whether that is what became of them.

        Each is said, and so is why one is left.
        """
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(instance: Instance) -> bool:
            async with at_once:
                return await self._machine(instance)

        removed = await asyncio.gather(*map(one, instances))
        freed = [await self._free_volumes(zone) for zone in zones]
        return all([*removed, *freed])

    async def _machine(self, instance: Instance) -> bool:
        try:
            await self._power_off(instance)
            self._check_lease()
            await self._scaleway.delete(instance)
        except ApiError as error:
            said = escape(str(error))
            self._console.print(f"[red]{instance.name}: not removed:[/] {said}", highlight=False)
            return False
        self._console.print(f"{instance.name}: removed, with its volumes")
        return True

    async def _free_volumes(self, zone: str) -> bool:
        """What an earlier crash may have left: nobody sweeps up after the fleet is gone."""
        good, say = True, self._console.print
        try:
            free = [v for v in await self._scaleway.volumes(zone) if v.attached_to is None]
        except ApiError as error:
            say(f"[red]volumes in {zone}:[/] {escape(str(error))}", highlight=False)
            return False
        for volume in free:
            try:
                self._check_lease()
                await self._scaleway.delete_volume(volume)
                say(f"volume {escape(volume.name)}: removed")
            except ApiError as error:
                good = False
                say(f"[red]volume {volume.id}:[/] {escape(str(error))}", highlight=False)
        return good

    async def _power_off(self, instance: Instance) -> None:
        """Power it off and wait until it is off, or gone.

        Off before it is deleted: a shutdown lets the agent tell ClearML, a deletion does not.
        """
        waited, asked = 0.0, False
        while waited <= OFF_WITHIN_SECONDS:
            found = {i.id: i for i in await self._scaleway.instances(instance.zone)}
            now = found.get(instance.id)
            if now is None and not await self._scaleway.exists(instance.zone, instance.id):
                return
            if now is not None and now.state is ServerState.STOPPED:
                return
            up = now is not None and now.state in (
                ServerState.RUNNING,
                ServerState.STOPPED_IN_PLACE,
            )
            if now is not None and up and not asked:
                self._check_lease()
                await self._scaleway.stop(now)
                asked = True
            await self._clock.sleep(POLL_SECONDS)
            waited += POLL_SECONDS
        raise Transient(f"{instance.name} is not off after {OFF_WITHIN_SECONDS:.0f} s")

    def _check_lease(self) -> None:
        if self._lease_left() <= 0:
            raise Transient(WITHOUT_LEASE)
