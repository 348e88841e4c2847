"""Budget: how many tokens this answer may have, and whether the accounts can pay its worst case.

Reserve before, settle after, refund the rest. The sums are in memory, so that checking and
holding is one step of the event loop; what makes them durable rides on the decision's own leaves
(`ports.LedgerEntry`): the worst case on the INTENT, the difference on the RESULT. A crash
between the two leaves the worst case spent, never less than what was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave_agent.errors import BudgetExceeded, StorageError, TooManyTokens
from exclave_agent.ports import (
    ActiveRelease,
    BudgetView,
    Clock,
    Ledger,
    LedgerEntry,
    ModelInfo,
    Price,
)
from exclave_policy.kinds.budgets import MICRO, Budget

from .accounts import Account, Periods, accounts_of, all_accounts, is_run, workflow_of
from .calls import Call
from .worst import Worst

DEFAULT_TOKENS = 512
"""Tokens of answer when neither the request nor the policy names a number."""
MAX_RUNS = 100_000
"""Runs of one workflow that are remembered at a time; more are refused."""
MAX_AMOUNT = 2**53 - 1
"""Largest amount of one reservation: sums of them stay exact in 64 bits."""


def budget(requested: int | None, cap: int | None) -> int | None:
    """The tokens granted: what was asked for, within the policy's cap.

    None: nothing was asked for; `route` then chooses within the cap and the model's context.
    Raises: TooManyTokens naming both numbers when more was asked for than the policy grants:
    a silent cut would look like an answer that ended by itself.
    """
    if requested is not None and cap is not None and requested > cap:
        raise TooManyTokens(
            f"max_tokens is {requested}, and the policy allows at most {cap}: ask for less",
            code="max_tokens_exceeded",
        )
    return requested


def default_tokens(cap: int | None, context: int) -> int:
    """Tokens of answer when the request names none: the policy's cap and `DEFAULT_TOKENS`,
    and never more than half the context, so that a prompt still fits beside it."""
    tokens = DEFAULT_TOKENS if cap is None else min(cap, DEFAULT_TOKENS)
    return max(1, min(tokens, context // 2)) if context else tokens


@dataclass(slots=True)
class _Sum:
    """What one account spent in one period, and what is held of it for decisions under way."""

    tokens: int = 0
    money: int = 0
    tokens_held: int = 0
    money_held: int = 0

    @property
    def held(self) -> bool:
        return bool(self.tokens_held or self.money_held)


_Key = tuple[str, str]
"""An account's path and a period."""


class Reservation:
    """What is held for one decision. Ends by `settle`, `release` or `drop`, whichever is called
    first; further calls change nothing."""

    __slots__ = ("_budgets", "_currency", "_ended", "_keys", "_money", "_tokens", "worst")

    def __init__(
        self, budgets: Budgets, keys: Sequence[_Key], worst: Worst, money: int, currency: str
    ) -> None:
        self._budgets = budgets
        self._keys = keys
        self._tokens = worst.total if keys else 0
        self._money = money
        self._currency = currency
        self._ended = False
        self.worst = worst

    @property
    def tokens(self) -> int:
        """Most tokens of prompt and answer together: no stream goes on beyond them."""
        return self.worst.total

    @property
    def money_micro(self) -> int:
        """Held, in millionths of the document's currency; 0 when no money is counted."""
        return self._money

    def entries(self) -> tuple[LedgerEntry, ...]:
        """The worst case, for the INTENT's draft."""
        return self._entries(self._tokens, self._money)

    def settle(
        self,
        prompt: int | None,
        completion: int | None,
        cached: int = 0,
        price: Price | None = None,
    ) -> tuple[LedgerEntry, ...]:
        """End with what was used; the differences to the worst case, for the RESULT's draft.

        `prompt`, `completion` None: not known, so the worst case counts. `cached`: prompt tokens
        that the provider charged as cached. `price`: of the model that answered.
        """
        if self._ended:
            return ()
        one = self.worst
        prompt = one.prompt if prompt is None else prompt
        completion = one.completion if completion is None else completion
        tokens, money = prompt + completion, 0
        if price is not None and price.currency == self._currency:
            money = price.cost_micro(prompt, completion, min(cached, prompt))
        tokens, money = min(tokens, MAX_AMOUNT), min(money, MAX_AMOUNT)
        if not self._keys:
            tokens = money = 0
        self._end(tokens, money)
        return self._entries(tokens - self._tokens, money - self._money)

    def release(self) -> tuple[LedgerEntry, ...]:
        """End with nothing used: the refund, for the RESULT's draft."""
        if self._ended:
            return ()
        self._end(0, 0)
        return self._entries(-self._tokens, -self._money)

    def drop(self) -> None:
        """End because the INTENT never became durable: nothing is in the ledger."""
        if not self._ended:
            self._end(0, 0)

    def _end(self, tokens: int, money: int) -> None:
        self._ended = True
        self._budgets._settle(self._keys, (self._tokens, self._money), (tokens, money))

    def _entries(self, tokens: int, money: int) -> tuple[LedgerEntry, ...]:
        if not tokens and not money:
            return ()
        return tuple(LedgerEntry(path, period, tokens, money) for path, period in self._keys)


class Budgets:
    """The accounts' sums. `load` them before the first `reserve`; on the event loop only."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        """`clock`: one that does not step back over a restart (`TrustedTime`), or a clock set
        back would open a period twice."""
        self._ledger = ledger
        self._clock = clock
        self._sums: dict[_Key, _Sum] = {}
        self._runs: dict[str, int] = {}
        self._loaded = False
        self._document: Budget | None = None
        self._forgotten = -1
        """The day on which every period that had ended was forgotten."""
        self._periods = Periods.at(clock.now_ns())

    async def load(self) -> None:
        """Take up the durable sums. Raises: StorageError."""
        totals = await self._ledger.totals()
        self._sums = {key: _Sum(tokens, money) for key, (tokens, money) in totals.items()}
        self._runs = {}
        for path, _ in self._sums:
            self._count_run(path)
        self._loaded = True

    async def forget(self) -> None:
        """Drop the sums of periods that are over; a chore. Raises: StorageError."""
        periods = self._now()
        if periods.number == self._forgotten:
            return  # no period has ended since: runs may be many, and this is the event loop
        held = {period for (_, period), sums in self._sums.items() if sums.held}
        ended = {period for _, period in self._sums if periods.over(period)}
        over = ended - held
        if over == ended:
            self._forgotten = periods.number
        if not over:
            return
        await self._ledger.forget(sorted(over))
        for key in [key for key, sums in self._sums.items() if key[1] in over and not sums.held]:
            del self._sums[key]
            self._uncount_run(key[0])

    def reserve(
        self, release: ActiveRelease, call: Call, targets: Sequence[ModelInfo], worst: Worst
    ) -> Reservation:
        """Hold the worst case of `call` on every account that it is charged to.

        Synchronous: nothing runs between the check and the hold. `targets`: every model that may
        be asked; the dearest one's price counts. Raises: BudgetExceeded; then nothing is held.
        """
        document = self._document = release.policy.budget
        if document is None:
            return Reservation(self, (), worst, 0, "")
        if not self._loaded:
            raise StorageError("the budgets' sums are not loaded yet", code="budgets_not_loaded")
        periods = self._now()
        accounts = accounts_of(document, call)
        money = _money(document, accounts, targets, worst)
        if worst.total > MAX_AMOUNT or money > MAX_AMOUNT:
            raise BudgetExceeded("this request may use more than any budget can hold")
        self._check(document, accounts, periods, worst.total, money)
        keys = [(account.path, _period(account, periods)) for account in accounts]
        for key in keys:
            sums = self._sums.get(key)
            if sums is None:
                sums = self._sums[key] = _Sum()
                self._count_run(key[0])
            sums.tokens_held += worst.total
            sums.money_held += money
        return Reservation(self, keys, worst, money, document.currency)

    def views(self, document: Budget | None = None) -> list[BudgetView]:
        """Every account of `document` (of the last one that was asked for, if not given) now."""
        document = document or self._document
        if document is None:
            return []
        periods = self._now()
        views: list[BudgetView] = []
        for account in all_accounts(document):
            limits = account.limits
            sums = self._sums.get((account.path, periods.name(limits.per)), _NOTHING)
            views.append(
                BudgetView(
                    account=account.path,
                    period=limits.per,
                    tokens=sums.tokens,
                    tokens_reserved=sums.tokens_held,
                    tokens_limit=limits.tokens,
                    money_micro=sums.money,
                    money_reserved_micro=sums.money_held,
                    money_limit_micro=limits.money_micro,
                    currency=document.currency,
                )
            )
        return views

    def _now(self) -> Periods:
        now_ns = self._clock.now_ns()
        if not self._periods.hold(now_ns):
            self._periods = Periods.at(now_ns)
        return self._periods

    def _check(
        self,
        document: Budget,
        accounts: Sequence[Account],
        periods: Periods,
        tokens: int,
        money: int,
    ) -> None:
        """Raises: BudgetExceeded naming, of the accounts that cannot pay, the one that renews
        last: waiting for another one would be in vain."""
        refusals: list[tuple[float, str, float | None]] = []
        for account in accounts:
            said = self._refusal(document, account, periods, tokens, money)
            if said is not None:
                wait = periods.seconds_left(account.limits.per, self._clock.now_ns())
                refusals.append((float("inf") if wait is None else wait, said, wait))
        if refusals:
            _, said, wait = max(refusals, key=lambda refusal: refusal[0])
            raise BudgetExceeded(said, retry_after=wait)

    def _refusal(
        self, document: Budget, account: Account, periods: Periods, tokens: int, money: int
    ) -> str | None:
        limits = account.limits
        sums = self._spent(account, periods)
        if account.is_run and (account.path, periods.day) not in self._sums:
            known = self._runs.get(workflow_of(account.path), 0)
            if known >= MAX_RUNS:
                return (
                    f"{known} runs of this workflow are remembered already, and more are not: "
                    "name fewer runs"
                )
        whose = _WHOSE[limits.per].format(account.shown)
        if limits.tokens is not None:
            left = max(limits.tokens - sums.tokens - sums.tokens_held, 0)
            if tokens > left:  # what takes none may go on after an answer that took too many
                return (
                    f"budget of {whose}: {left} of {limits.tokens} tokens are left, and "
                    f"this request may use {tokens}: ask for fewer tokens, or wait"
                )
        if limits.money_micro is not None:
            left = max(limits.money_micro - sums.money - sums.money_held, 0)
            if money > left:
                return (
                    f"budget of {whose}: {amount(left)} of {amount(limits.money_micro)} "
                    f"{document.currency} are left, and this request may cost {amount(money)}: "
                    "ask for fewer tokens, or wait"
                )
        return None

    def _spent(self, account: Account, periods: Periods) -> _Sum:
        if not account.is_run:
            return self._sums.get((account.path, periods.name(account.limits.per)), _NOTHING)
        total = _Sum()
        for day in periods.days:
            sums = self._sums.get((account.path, day))
            if sums is not None:
                total.tokens += sums.tokens
                total.money += sums.money
                total.tokens_held += sums.tokens_held
                total.money_held += sums.money_held
        return total

    def _settle(self, keys: Sequence[_Key], held: tuple[int, int], used: tuple[int, int]) -> None:
        for key in keys:
            sums = self._sums[key]  # sums with holds are never forgotten
            sums.tokens_held -= held[0]
            sums.money_held -= held[1]
            sums.tokens += used[0]
            sums.money += used[1]

    def _count_run(self, path: str) -> None:
        if is_run(path):
            workflow = workflow_of(path)
            self._runs[workflow] = self._runs.get(workflow, 0) + 1

    def _uncount_run(self, path: str) -> None:
        if is_run(path):
            self._runs[workflow_of(path)] -= 1


_NOTHING = _Sum()
_WHOSE = {"day": "{} for this day", "month": "{} for this month", "total": "{}"}


def _period(account: Account, periods: Periods) -> str:
    """Where the ledger keeps what is spent now: a run's by days, so that it can be forgotten."""
    return periods.day if account.is_run else periods.name(account.limits.per)


def _money(
    document: Budget, accounts: Sequence[Account], targets: Sequence[ModelInfo], worst: Worst
) -> int:
    """The worst case in millionths, of the dearest target.

    Raises: BudgetExceeded when an account limits money and a target's price is not known in the
    document's currency: an unknown price might be any.
    """
    if not document.currency or not worst.total:
        return 0
    limited = any(account.limits.money_micro is not None for account in accounts)
    dearest = 0
    for info in targets:
        price = info.price
        if price is not None and price.currency == document.currency:
            dearest = max(dearest, worst.cost_micro(price))
        elif limited:
            found = "no price" if price is None else f"a price in {price.currency}"
            raise BudgetExceeded(
                f"a budget limits money in {document.currency}, and model {info.name} has {found}: "
                "its price must be in the release"
            )
    return dearest


def amount(micro: int) -> str:
    """Millionths as a decimal of at least two places: 1_500_000 is "1.50"."""
    text = f"{micro // MICRO}.{micro % MICRO:06d}".rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"
