"""Find patterns of personal data in a query: addresses and numbers that have a form. Names of people have none.

The patterns rather find too much than too little: a query that is left out costs nothing.
"""

import re
from ipaddress import IPv6Address
from unicodedata import normalize

EMAIL = re.compile(
    r"[\w.+%-]+\s?(?:@|[(\[{<]\s?(?:at|@)\s?[)\]}>])\s?[\w-]+"  # also (at) and [at]
    r"(?:(?:\.|\s?[(\[{<]\s?(?:dot|punkt|\.)\s?[)\]}>]\s?|\sdot\s|\spunkt\s)[\w-]+)+"  # also (dot) and dot
    r"|[\w.+%-]+\sat\s[\w-]+\sdot\s[a-z]{2,}\b",
    re.IGNORECASE,
)
HANDLE = re.compile(r"(?<![\w.])@\w{2,}")
IPV4 = re.compile(r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
IPV6 = re.compile(r"(?<![\w:])[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:]*(?![\w:])", re.IGNORECASE)
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}\b", re.IGNORECASE)
DIGITS = re.compile(r"(?<!\d)\d(?:[ .-]?\d){12,18}(?!\d)")
PHONE = re.compile(
    r"(?<!\w)(?:\+|00)\d{1,3}(?:[ ()/.-]{0,2}\d){6,12}(?!\d)"  # international
    r"|(?<![\w.])\(?0\d{1,5}\)?[ /.-]{0,2}\d(?:[ /.-]?\d){4,9}(?!\d)"  # with a trunk zero
    r"|(?<![\w.])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"  # North America
)
SOCIAL_SECURITY = re.compile(r"(?<![\w-])\d{3}[ -]\d{2}[ -]\d{4}(?![\w-])")
"""Social security number of the United States."""
RUN = re.compile(r"(?<!\w)\d{7,}|\d{9,}")
"""Long runs of digits: numbers of customers, passports, social security, tracking."""


def personal_data(text: str) -> str | None:
    """Return the kind of personal data whose form a text contains; None if there is none."""
    plain = normalize("NFKC", text)
    if EMAIL.search(plain):
        return "e-mail address"
    if any(is_iban(found[0]) for found in IBAN.finditer(plain)):
        return "IBAN"
    if any(is_card(found[0]) for found in DIGITS.finditer(plain)):
        return "card number"
    if any(max(map(int, found.groups())) < 256 for found in IPV4.finditer(plain)):
        return "IPv4 address"
    if any(is_ipv6(found[0]) for found in IPV6.finditer(plain)):
        return "IPv6 address"
    if HANDLE.search(plain):
        return "@handle"
    if PHONE.search(plain):
        return "phone number"
    if SOCIAL_SECURITY.search(plain):
        return "social security number"
    return "long number" if RUN.search(plain) else None


def is_ipv6(text: str) -> bool:
    """Return whether a text is an IPv6 address with two groups or more and a digit; `a::b` of C++ is none."""
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return len(list(filter(None, text.split(":")))) > 1 and any(map(str.isdigit, text))


def is_iban(text: str) -> bool:
    """Return whether the check digits of an IBAN are right (ISO 13616): its number is 1 modulo 97."""
    code = re.sub(r"[ -]", "", text).upper()
    return any(
        int("".join(str(int(one, 36)) for one in f"{code[4:end]}{code[:4]}")) % 97 == 1
        for end in range(15, len(code) + 1)  # words of the query may follow
    )


def is_card(text: str) -> bool:
    """Return whether the check digit of a card number is right (Luhn's algorithm, ISO/IEC 7812)."""
    digits = [int(one) for one in text if one.isdigit()]
    doubled = (2 * one - 9 * (one > 4) if place % 2 else one for place, one in enumerate(reversed(digits)))
    return sum(doubled) % 10 == 0
