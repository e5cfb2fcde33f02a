"""Prices as people and shops write them: `19.99 USD`, `1.234,50 EUR`, `£5`."""

import functools
import re

_SIGNS = {"€": "EUR", "£": "GBP"}
# ISO 4217: those whose prices have no or three decimals; all others have two.
_NO_DECIMALS = frozenset(["CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF"])
_THREE_DECIMALS = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])

_CURRENCY = r"[A-Za-z]{3}|[€£$¥]"
_PRICE = re.compile(
    rf"(?P<before>{_CURRENCY})?\s*(?P<amount>\d[\d.,'’\s]*)(?<!\s)\s*(?P<after>{_CURRENCY})?"
)
_GROUPED = re.compile(r"\d{1,3}(?P<sign>[.,'’\s])\d{3}(?:(?P=sign)\d{3})*")


@functools.lru_cache(1 << 16)
def read_price(text: str) -> tuple[float, str] | None:
    """Reads a price.

    Of a point and a comma the last is the decimal one. One comma before three digits groups them
    (`1,299 USD`). One point before three digits may do either (`1.299 EUR`): it is read only where
    the currency's decimals tell, in yen (none) or dinars (three).

    Args:
        text: str.

    Returns:
        (amount, currency: three letters in capitals, or the sign `$` or `¥`, or empty), or None
        where the text is no price, or may be two.
    """
    found = _PRICE.fullmatch(text.strip())
    if not found or (found["before"] and found["after"]):
        return None
    currency = found["before"] or found["after"] or ""
    currency = _SIGNS.get(currency, currency.upper())
    amount = _amount(found["amount"], currency)
    return None if amount is None else (amount, currency)


def _amount(text: str, currency: str) -> float | None:
    signs = re.sub(r"\d", "", text)
    point = signs[-1:] if signs[-1:] in (".", ",") and signs.count(signs[-1:]) == 1 else ""
    if point and len(signs) == 1:
        before, after = text.split(point)
        if len(after) == 3 and before.lstrip("0") and currency not in _THREE_DECIMALS:
            if point == "." and currency not in _NO_DECIMALS:
                return None
            point = ""
    whole, _, decimals = text.rpartition(point) if point else (text, "", "")
    if not (whole.isdecimal() or _GROUPED.fullmatch(whole)) or not (decimals or "0").isdecimal():
        return None
    return float(f"{re.sub(r'[^0-9]', '', whole)}.{decimals or 0}")
