"""A labelled corpus of lines with and without personal data, made from templates and generators:
nobody's data, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

COUNTRIES = ("BE", "BR", "CA", "CH", "DE", "ES", "FR", "GB", "IT", "NL", "PL", "SE", "US")


@dataclass(frozen=True)
class Line:
    """One line, and what of it is personal data."""

    text: str
    spans: tuple[tuple[str, int, int], ...]
    """(kind, start, end)."""


Make = Callable[[random.Random], str]


def lines(seed: int, count: int) -> Iterator[Line]:
    """`count` lines; about half of them hold nothing, and most of those look as if they did."""
    chance = random.Random(seed)
    for _ in range(count):
        roll = chance.random()
        if roll < 0.52:
            yield _labelled(chance)
        elif roll < 0.88:
            yield Line(_filled(chance, chance.choice(MISSES)), ())
        else:
            yield Line(chance.choice(PLAIN), ())


def _labelled(chance: random.Random) -> Line:
    kind = chance.choice(tuple(GIVEN))
    template, make = chance.choice(GIVEN[kind])
    value = make(chance)
    text = template.replace("{}", value)
    start = text.index(value)
    found = [(kind, start, start + len(value))]
    if chance.random() < 0.3:
        other = chance.choice([each for each in GIVEN if each != kind])
        more, making = chance.choice(GIVEN[other])
        second = making(chance)
        place = len(text) + 1 + more.index("{}")
        text = f"{text} {more.replace('{}', second)}"
        found.append((other, place, place + len(second)))
    return Line(text, tuple(found))


def _filled(chance: random.Random, miss: tuple[str, Make]) -> str:
    template, make = miss
    return template.replace("{}", make(chance))


# --- numbers with the right checksums ------------------------------------------------------------


def digits(chance: random.Random, count: int) -> str:
    return "".join(str(chance.randrange(10)) for _ in range(count))


def luhn(body: str) -> str:
    """`body` with its check digit."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return f"{body}{-total % 10}"


def card(chance: random.Random) -> str:
    number = luhn(chance.choice(("4", "51", "52", "53", "55")) + digits(chance, 14))[:16]
    number = luhn(number[:15])
    if chance.random() < 0.2:
        number = luhn("37" + digits(chance, 12))
        return chance.choice((number, f"{number[:4]} {number[4:10]} {number[10:]}"))
    grouped = [number[i : i + 4] for i in range(0, 16, 4)]
    return chance.choice((number, " ".join(grouped), "-".join(grouped)))


BBANS: dict[str, Make] = {
    "DE": lambda c: digits(c, 18),
    "NL": lambda c: c.choice(("ABNA", "INGB", "RABO")) + digits(c, 10),
    "GB": lambda c: c.choice(("WEST", "BARC", "LOYD")) + digits(c, 14),
    "AT": lambda c: digits(c, 16),
    "CH": lambda c: digits(c, 17),
    "DK": lambda c: digits(c, 14),
}


def iban(chance: random.Random) -> str:
    country = chance.choice(tuple(BBANS))
    bban = BBANS[country](chance)
    number = "".join(str(int(each, 36)) for each in bban + country + "00")
    text = f"{country}{98 - int(number) % 97:02}{bban}"
    if chance.random() < 0.5:
        return text
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def email(chance: random.Random) -> str:
    name = chance.choice(("anna", "jan.peeters", "m_rossi", "k.novak+shop", "info", "lea-marie"))
    domain = chance.choice(("example.com", "mail.example.org", "firma-beispiel.de", "exemple.fr"))
    return f"{name}{chance.randrange(1, 99)}@{domain}"


def phone(chance: random.Random) -> str:
    return chance.choice(
        (
            f"+49 30 {chance.randrange(200000, 999999)}",
            f"+49 151 {chance.randrange(10000000, 99999999)}",
            f"+31 6 {chance.randrange(10000000, 59999999)}",
            f"+33 6 {' '.join(f'{chance.randrange(10, 99)}' for _ in range(4))}",
            f"+1 212 {chance.randrange(200, 999)} {chance.randrange(1000, 9999)}",
            f"(212) {chance.randrange(200, 999)}-{chance.randrange(1000, 9999)}",
            f"+44 20 7{chance.randrange(100, 999)} {chance.randrange(1000, 9999)}",
            f"+41 44 {chance.randrange(200, 999)} {chance.randrange(10, 99)} 40",
        )
    )


def date(chance: random.Random, style: str) -> str:
    day, month, year = (
        chance.randrange(1, 29),
        chance.randrange(1, 13),
        chance.randrange(1935, 2009),
    )
    months = MONTHS[style]
    return chance.choice(
        (
            f"{day:02}.{month:02}.{year}",
            f"{year}-{month:02}-{day:02}",
            f"{day:02}/{month:02}/{year}",
            f"{day} {months[month - 1]} {year}",
        )
    )


MONTHS: dict[str, tuple[str, ...]] = {
    "en": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    "fr": (
        *("janvier", "février", "mars", "avril", "mai", "juin"),
        *("juillet", "août", "septembre", "octobre", "novembre", "décembre"),
    ),
    "nl": (
        *("januari", "februari", "maart", "april", "mei", "juni"),
        *("juli", "augustus", "september", "oktober", "november", "december"),
    ),
    "es": (
        *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
        *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
    ),
    "it": (
        *("gennaio", "febbraio", "marzo", "aprile", "maggio", "giugno"),
        *("luglio", "agosto", "settembre", "ottobre", "novembre", "dicembre"),
    ),
}


def ssn(chance: random.Random) -> str:
    area = chance.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03}-{chance.randrange(1, 100):02}-{chance.randrange(1, 10000):04}"


def bsn(chance: random.Random) -> str:
    while True:
        body = digits(chance, 8)
        check = sum(int(d) * w for d, w in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10 and body[0] != "0":
            return f"{body}{check}"


def dni(chance: random.Random) -> str:
    number = chance.randrange(10**7, 10**8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def nir(chance: random.Random) -> str:
    body = (
        f"{chance.choice('12')}{chance.randrange(40, 99):02}{chance.randrange(1, 13):02}"
        f"{chance.randrange(1, 20):02}{chance.randrange(1, 900):03}{chance.randrange(1, 900):03}"
    )
    return f"{body}{97 - int(body) % 97:02}"


def cpf(chance: random.Random) -> str:
    body = [chance.randrange(10) for _ in range(9)]
    for _ in range(2):
        total = sum(d * w for d, w in zip(body, range(len(body) + 1, 1, -1), strict=True))
        body.append((total * 10 % 11) % 10)
    text = "".join(map(str, body))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


def pesel(chance: random.Random) -> str:
    body = f"{chance.randrange(40, 99):02}{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}"
    body += digits(chance, 4)
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
    return f"{body}{-sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 10}"


def personnummer(chance: random.Random) -> str:
    body = f"{chance.randrange(40, 99):02}{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}"
    full = luhn(body + f"{chance.randrange(1, 1000):03}")
    return f"{full[:6]}-{full[6:]}"


def ahv(chance: random.Random) -> str:
    body = "756" + digits(chance, 9)
    check = -sum(int(d) * (3 if place % 2 else 1) for place, d in enumerate(body)) % 10
    return f"756.{body[3:7]}.{body[7:11]}.{body[11]}{check}"


def sin(chance: random.Random) -> str:
    text = luhn(chance.choice("1234567") + digits(chance, 7))
    return f"{text[:3]} {text[3:6]} {text[6:]}"


def nino(chance: random.Random) -> str:
    start = chance.choice(("AB", "CE", "JG", "PW"))
    middle = " ".join(digits(chance, 2) for _ in range(3))
    return f"{start} {middle} {chance.choice('ABCD')}"


def ip(chance: random.Random) -> str:
    return chance.choice(
        (
            ".".join(str(chance.randrange(1, 255)) for _ in range(4)),
            f"2001:db8:{chance.randrange(1, 65535):x}::{chance.randrange(1, 65535):x}",
        )
    )


GIVEN: dict[str, Sequence[tuple[str, Make]]] = {
    "card": [
        ("Please charge {} for the order.", card),
        ("Kartennummer: {}, gültig bis 11/29", card),
        ("La carte {} a été refusée.", card),
        ("Tarjeta {} caducada", card),
    ],
    "iban": [
        ("Transfer it to {} today.", iban),
        ("Meine IBAN lautet {}.", iban),
        ("Virement vers {} demandé", iban),
        ("Rekening {} op naam van de klant", iban),
    ],
    "email": [
        ("Write to {} about it.", email),
        ("Antwort bitte an {}", email),
        ("mon adresse est {}, merci", email),
        ("contact: {};", email),
    ],
    "phone": [
        ("Call me at {} after six.", phone),
        ("Tel. {}", phone),
        ("Mon numéro est le {}", phone),
        ("Bel {} voor meer informatie", phone),
    ],
    "date_of_birth": [
        ("The patient was born on {} in Leeds.", lambda c: date(c, "en")),
        ("DOB: {}", lambda c: date(c, "en")),
        ("Née le {} à Lyon", lambda c: date(c, "fr")),
        ("geboren op {} te Utrecht", lambda c: date(c, "nl")),
        ("Fecha de nacimiento: {}", lambda c: date(c, "es")),
        ("data di nascita {}", lambda c: date(c, "it")),
    ],
    "national_id": [
        ("SSN {}", ssn),
        ("Mijn BSN is {}.", bsn),
        ("DNI: {}", dni),
        ("NIR {}", nir),
        ("O CPF dele é {}", cpf),
        ("PESEL {}", pesel),
        ("personnummer {}", personnummer),
        ("AHV-Nr. {}", ahv),
        ("Her SIN is {}", sin),
        ("National Insurance {}", nino),
    ],
    "ip": [("The request came from {}.", ip), ("Zugriff von {} verweigert", ip)],
}


def broken(make: Make) -> Make:
    """The same shape with a digit that does not belong there."""

    def made(chance: random.Random) -> str:
        text = make(chance)
        place = max(i for i, each in enumerate(text) if each.isdigit())
        return (
            f"{text[:place]}{(int(text[place]) + 1 + chance.randrange(8)) % 10}{text[place + 1 :]}"
        )

    return made


def letters(chance: random.Random, count: int) -> str:
    return "".join(chance.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(count))


MISSES: Sequence[tuple[str, Make]] = [
    ("Order {} has shipped.", lambda c: f"{letters(c, 2)}-{digits(c, 8)}"),
    ("Rechnung Nr. {} vom Montag", lambda c: f"20{digits(c, 2)}-{digits(c, 6)}"),
    ("Please quote ticket {}.", lambda c: digits(c, 9)),
    ("Tracking {}", lambda c: f"1Z{letters(c, 3)}{digits(c, 11)}"),
    ("Card {} was mistyped", broken(card)),
    ("IBAN {} is not valid", broken(iban)),
    (
        "version {} fixes it",
        lambda c: f"{digits(c, 1)}.{digits(c, 2)}.{digits(c, 1)}.{digits(c, 1)}",
    ),
    ("The meeting is on {}.", lambda c: date(c, "en")),
    ("Livraison prévue le {}", lambda c: date(c, "fr")),
    (
        "Vertrag vom {}",
        lambda c: f"{c.randrange(1, 28):02}.{c.randrange(1, 12):02}.20{digits(c, 2)}",
    ),
    ("Part no. {} in stock", lambda c: f"{digits(c, 4)}-{digits(c, 4)}"),
    ("It costs {} EUR.", lambda c: f"{digits(c, 1)},{digits(c, 3)}.{digits(c, 2)}"),
    ("from {} to noon", lambda c: f"{c.randrange(1, 12):02}:{digits(c, 1)}0:{digits(c, 1)}0"),
    ("mention @{} in the channel", lambda c: f"team{digits(c, 2)}"),
    ("sha256 {}", lambda c: "".join(c.choice("0123456789abcdef") for _ in range(64))),
    ("GPS {}", lambda c: f"{digits(c, 2)}.{digits(c, 6)}, {digits(c, 1)}.{digits(c, 6)}"),
    (
        "See section {} of the contract",
        lambda c: f"{c.randrange(1, 20)}.{c.randrange(1, 9)}.{c.randrange(1, 9)}",
    ),
    ("ISBN {}", lambda c: f"978-3-{digits(c, 2)}-{digits(c, 6)}-{digits(c, 1)}"),
    ("DNI {} is mistyped", broken(dni)),
    ("quantity {} of item", lambda c: digits(c, 5)),
]
PLAIN: Sequence[str] = [
    "Thank you for your patience, we are looking into it.",
    "Der Zug hat heute zwölf Minuten Verspätung.",
    "Le contrat sera signé la semaine prochaine.",
    "La reunión empieza a las nueve.",
    "De levering komt morgen in de ochtend.",
    "Il prezzo include la spedizione.",
    "Chapter 7 explains the 3 rules in 12 pages.",
    "We sold 1200 units in 2025, up 14 % on the year.",
    "The build failed with exit code 137 after 42 seconds.",
]
