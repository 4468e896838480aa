"""The use cases of SCAYLE Checkout's calls, wired from the settings."""

import random

from consumers.balances import BalanceReader
from consumers.register_member import RegisterMember
from service.checkout.balances import Balances
from service.checkout.cards import Cards, Programs
from service.checkout.desk import CheckoutDesk
from service.checkout.rates import AmountUnit, Rates
from service.checkout.registration import RegistrationConfig, RegistrationLedger, Registrations
from service.checkout.spending import Offer, Spendings
from service.configuration import call_policy, renderer
from service.domain.call_planning import CallPlanner
from service.domain.cards import CardForm
from service.domain.clock import Clock
from service.domain.loyalty import LoyaltySplio
from service.domain.planning import ContactKey, PointsFrom
from service.domain.ports import Splio, StepHook, no_step
from service.settings import Settings
from service.telemetry.metrics import Metrics


def call_planner(settings: Settings) -> CallPlanner:
    """Plans calls as the settings want it."""
    return CallPlanner(call_policy(settings), renderer(settings))


def make_desk(
    settings: Settings,
    ledger: RegistrationLedger,
    splio: Splio,
    loyalty: LoyaltySplio,
    *,
    offer: Offer,
    clock: Clock,
    metrics: Metrics,
    step: StepHook = no_step,
) -> CheckoutDesk:
    """The use cases of one process; to be closed before its ledger and client are."""
    timeout_s = settings.loyalty_timeout_s
    planner = call_planner(settings)
    programs = Programs(settings.loyalty_programs)
    unit = settings.loyalty_amount_unit
    rates = Rates(
        loyalty,
        programs,
        settings.loyalty_rates,
        unit=AmountUnit(unit) if unit else None,
        clock=clock,
    )
    return CheckoutDesk(
        balances=Balances(
            ledger,
            loyalty,
            BalanceReader(ledger, loyalty, clock, step=step),
            clock=clock,
            metrics=metrics,
            fresh_s=settings.balance_fresh_s,
            timeout_s=timeout_s,
        ),
        cards=Cards(
            loyalty,
            programs,
            form=settings.loyalty_card_form or CardForm(),
            clock=clock,
        ),
        programs=programs,
        rates=rates,
        registrations=Registrations(
            ledger,
            loyalty,
            RegisterMember(splio, loyalty, clock),
            planner,
            programs,
            config=RegistrationConfig(
                ContactKey(settings.splio_contact_key), timeout_s, settings.lease_margin_s
            ),
            clock=clock,
            random_=random.Random(),
        ),
        spendings=Spendings(
            ledger,
            planner,
            programs,
            rates,
            points_from=PointsFrom(settings.points_from),
            offer=offer,
            metrics=metrics,
        ),
    )
