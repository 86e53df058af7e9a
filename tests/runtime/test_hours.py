"""Working hours in the real loop, over a weekend and the night in which clocks are set back."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.runtime.clock import run_virtual
from tests.policy.worlds import config
from tests.runtime.world import World

HOURS = {
    "timezone": "Europe/Paris",
    "windows": [{"days": "mon-fri", "from": "08:00", "to": "18:00", "min_instances": 1}],
}
SATURDAY = datetime(2026, 10, 24, 12, tzinfo=UTC)
"""In the night to Sunday, Paris goes from UTC+2 to UTC+1."""


def test_a_machine_waits_for_people_on_monday_morning_and_not_before() -> None:
    async def scene() -> None:
        settings = config({"working_hours": HOURS, "idle_timeout": "5m"})
        world = World(settings, start=SATURDAY)
        await world.loop.prepare()
        on: list[datetime] = []

        def watch() -> None:
            if any(s.state is not ServerState.STOPPED for s in world.scaleway.all_servers()):
                on.append(world.clock.now())

        await world.cycles(timedelta(days=3), each=watch)
        eight, six = (datetime(2026, 10, 26, hour, tzinfo=UTC) for hour in (7, 17))
        assert eight <= on[0] <= eight + timedelta(minutes=2)
        night = [at for at in on if six + timedelta(minutes=10) < at < eight + timedelta(days=1)]
        assert night == []
        assert any(at >= eight + timedelta(days=1) for at in on)
        assert world.scaleway.bill().servers_created == 1, "and it is the same one"

    run_virtual(scene())


def test_the_hour_that_comes_twice_starts_no_machine_twice() -> None:
    """Until 02:30 of the night to Sunday; 02:00 to 03:00 comes again half an hour later."""
    night = {"days": "sat", "from": "22:00", "to": "02:30", "min_instances": 1}

    async def scene() -> None:
        hours = {"timezone": "Europe/Paris", "windows": [night]}
        world = World(config({"working_hours": hours, "idle_timeout": "5m"}), start=SATURDAY)
        await world.loop.prepare()
        on: list[datetime] = []

        def watch() -> None:
            if any(s.state is not ServerState.STOPPED for s in world.scaleway.all_servers()):
                on.append(world.clock.now())

        await world.cycles(timedelta(hours=18), each=watch)
        ten = datetime(2026, 10, 24, 20, tzinfo=UTC)
        half_past_two = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        assert ten <= on[0] <= ten + timedelta(minutes=2)
        assert half_past_two <= on[-1] <= half_past_two + timedelta(minutes=10)
        assert all(after - before < timedelta(minutes=5) for before, after in pairwise(on))

    run_virtual(scene())
