"""Patterns of personal data: addresses and numbers with a form are found, ordinary queries pass."""

import pytest

from labelkit.queries.personal_data import personal_data


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("mail of jane.doe+x@example.co.uk", "e-mail address"),
        ("jane＠example．com", "e-mail address"),
        ("write to jane @ example.com", "e-mail address"),
        ("mail john.doe [at] example.com", "e-mail address"),
        ("john (at) example dot com", "e-mail address"),
        ("john at example dot com", "e-mail address"),
        ("john(at)example(dot)co(dot)uk", "e-mail address"),
        ("server 2001:db8:85a3::8a2e:370:7334 down", "IPv6 address"),
        ("who has FE80::1FF:FE23:4567:890A", "IPv6 address"),
        ("lost my ssn 123-45-6789", "social security number"),
        ("DE89 3704 0044 0532 0130 00 which bank", "IBAN"),
        ("de89370400440532013000", "IBAN"),
        ("is GB82-WEST-1234-5698-7654-32 valid", "IBAN"),
        ("4111 1111 1111 1111 charged twice", "card number"),
        ("card 5500-0000-0000-0004", "card number"),
        ("who is 192.168.17.254", "IPv4 address"),
        ("tweets of @jane_doe", "@handle"),
        ("call +49 (0)30 1234567", "phone number"),
        ("0171 2345678 whose number", "phone number"),
        ("(555) 123-4567 spam", "phone number"),
        ("004930123456", "phone number"),
        ("passport c01x0006h9 or 123456789", "long number"),
        ("steuernummer 1234567", "long number"),
    ],
)  # fmt: skip
def test_personal_data_is_found(query, kind):
    assert personal_data(query) == kind


@pytest.mark.parametrize(
    "query",
    [
        "population of berlin 2024",
        "windows 11 23h2 update kb5031455",
        "gdp 1990-2020",
        "std::vector in c++",
        "a::b",
        "meeting at 10:30:15",
        "look at example sites",
        "what is at stake dot",
        "::",
        "what is (at) in rust",
        "ratio 1:2:3",
        "python 3.12.1 release notes",
        "10 000 steps a day",
        "section 12.3.4 of the standard",
        "x@home",
        "iso 13616-1:2020",
        "0.05 significance level",
        "model DE12 3456 engine",
        "50 mm f/1.8 lens 2023-11-05",
    ],
)
def test_ordinary_queries_pass(query):
    assert personal_data(query) is None


@pytest.mark.parametrize("query", ["4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01"])
def test_a_number_with_wrong_check_digits_is_no_card_and_no_iban(query):
    assert personal_data(query) not in ("card number", "IBAN")
