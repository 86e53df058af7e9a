"""How many machines of each type are free in each zone, and how many an organization may have."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.emulator import scaleway_errors as errors

SCARCE_UP_TO = 3
"""At so few free machines and fewer the availability listing says `scarce` (our choice)."""


class StockMode(StrEnum):
    """Where a lack of stock shows; no recording says which one is real, so clients meet all."""

    AT_CREATE = "at_create"
    """`POST /servers` is refused (and the power-on of a stopped server)."""
    AT_POWERON = "at_poweron"
    """Server and volume exist already; the power-on is refused."""
    SILENT = "silent"
    """The power-on is accepted, and a while later the server is `stopped` again."""


@dataclass(slots=True)
class _Shelf:
    stock: int | Availability = Availability.AVAILABLE
    mode: StockMode = StockMode.AT_POWERON
    told: Availability | None = None

    @property
    def empty(self) -> bool:
        return self.stock in (0, Availability.SHORTAGE)

    @property
    def level(self) -> Availability:
        if isinstance(self.stock, Availability):
            return self.stock
        if self.stock == 0:
            return Availability.SHORTAGE
        return Availability.SCARCE if self.stock <= SCARCE_UP_TO else Availability.AVAILABLE


_ENDLESS = _Shelf()


@dataclass(frozen=True, slots=True)
class _Quota:
    limit: int
    figures: bool


class Stock:
    """What was never set has endless stock and no quota."""

    def __init__(self) -> None:
        self._shelves: dict[Placement, _Shelf] = {}
        self._quotas: dict[str, _Quota] = {}

    def put(
        self,
        placement: Placement,
        stock: int | Availability,
        mode: StockMode = StockMode.AT_POWERON,
        told: Availability | None = None,
    ) -> None:
        """Set what is free now.

        A number is counted: servers take from it at power-on and give back at power-off. A level
        stays what it is: with `shortage`, what a server gives back goes to somebody else.
        `told` is what the availability listing says instead of the truth.
        """
        self._shelves[placement] = _Shelf(stock, mode, told)

    def set_quota(self, commercial_type: str, limit: int | None, *, figures: bool = True) -> None:
        """Allow `limit` servers of a type, in all zones, stopped ones too; None: any number."""
        self._quotas.pop(commercial_type, None)
        if limit is not None:
            self._quotas[commercial_type] = _Quota(limit, figures)

    def quota(self, commercial_type: str) -> int | None:
        """How many servers of a type are allowed; None: any number."""
        quota = self._quotas.get(commercial_type)
        return quota.limit if quota else None

    def told(self, zone: str, commercial_types: Iterable[str]) -> dict[str, Availability]:
        """What the availability listing says of these types."""
        levels = dict.fromkeys(commercial_types, _ENDLESS.level)
        for placement, shelf in self._shelves.items():
            if placement.zone == zone and placement.commercial_type in levels:
                levels[placement.commercial_type] = shelf.told or shelf.level
        return levels

    def allow_creation(self, placement: Placement, existing: int) -> None:
        """Raise `quotas_exceeded` or `out_of_stock` if one more server may not be made."""
        quota = self._quotas.get(placement.commercial_type)
        if quota is not None and existing >= quota.limit:
            resource = f"instances_{placement.commercial_type.lower()}"
            raise errors.quotas_exceeded(resource, quota.limit, existing, quota.figures)
        shelf = self._shelf(placement)
        if shelf.mode is StockMode.AT_CREATE and shelf.empty:
            raise errors.out_of_stock(placement.commercial_type)

    def take(self, placement: Placement) -> bool:
        """Take one machine for a power-on; False if there is none and nobody is told so.

        Raises `out_of_stock` where the lack is admitted.
        """
        shelf = self._shelf(placement)
        if shelf.empty:
            if shelf.mode is StockMode.SILENT:
                return False
            raise errors.out_of_stock(placement.commercial_type)
        if not isinstance(shelf.stock, Availability):
            shelf.stock -= 1
        return True

    def give_back(self, placement: Placement) -> None:
        """A machine is free again."""
        shelf = self._shelf(placement)
        if not isinstance(shelf.stock, Availability):
            shelf.stock += 1

    def _shelf(self, placement: Placement) -> _Shelf:
        return self._shelves.get(placement, _ENDLESS)
