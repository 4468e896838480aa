"""What the loyalty doors call: the use cases of a checkout, in one place."""

from dataclasses import dataclass

from service.checkout.balances import Balances
from service.checkout.cards import Cards, Programs
from service.checkout.rates import Rates
from service.checkout.registration import Registrations
from service.checkout.spending import Spendings


@dataclass(frozen=True, slots=True)
class CheckoutDesk:
    """The use cases; each raises what its own docstring says."""

    balances: Balances
    cards: Cards
    programs: Programs
    rates: Rates
    registrations: Registrations
    spendings: Spendings

    async def close(self) -> None:
        """Stop what is under way on its own account."""
        await self.balances.close()
        await self.rates.close()
        await self.registrations.close()
