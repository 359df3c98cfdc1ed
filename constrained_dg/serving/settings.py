"""What a server is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from constrained_dg.errors import check, is_count, is_number

#: The environment variable that holds the key: a command line can be read by other users of a machine.
KEY = "CONSTRAINED_DG_KEY"


@dataclass(frozen=True)
class Settings:
    """The bounds of a server, checked.

    Args:
        host: the address it listens on.
        hosts: further names that a request may call it by, such as that of a proxy.
        key: what a request must bring as `Authorization: Bearer KEY`; None for no key.
        batch_size: most rows in a batch.
        queue: most rows that wait.
        time_limit: seconds for a request, from its arrival.
        max_body: most bytes of a request's body.

    Raises:
        InputError: a value out of range.
    """

    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    key: str | None = None
    batch_size: int = 32
    queue: int = 256
    time_limit: float = 60.0
    max_body: int = 2**20

    def __post_init__(self) -> None:
        check(isinstance(self.host, str) and self.host != "", f"host is {self.host!r}", "give 127.0.0.1 or an address")
        named = all(isinstance(name, str) and name for name in self.hosts)
        check(named, f"hosts is {list(self.hosts)!r}", "give names, such as [models.example.org]")
        for name, most in (("batch_size", 4096), ("queue", 2**20), ("max_body", 2**30)):
            value = getattr(self, name)
            check(is_count(value, 1) and value <= most, f"{name} is {value!r}", f"give an integer from 1 to {most}")
        limit = self.time_limit
        fine = is_number(limit, above=0) and limit <= 86_400
        check(fine, f"time_limit is {limit!r}", "give seconds, at most 86400")
        good = self.key is None or (len(self.key) >= 16 and self.key.isascii() and self.key.isprintable())
        check(good, f"{KEY} is not a key", "give at least 16 characters of ASCII")

    def knows(self, name: str) -> bool:
        """Whether a request may call the server by this name (without the port).

        A web page of another site can reach a server on this machine under a name that leads to it (DNS rebinding), but
        not under an address. So a server that listens on all addresses takes any address, and of names only its own.
        """
        address, bound = _address(name), _address(self.host)
        if name in self.hosts or name == self.host:
            return True
        if name == "localhost":
            return self.host == "localhost" or (bound is not None and (bound.is_loopback or bound.is_unspecified))
        if address is None:
            return False
        if bound is None or bound.is_unspecified:
            return bound is not None or (self.host == "localhost" and address.is_loopback)
        return address == bound or (address.is_loopback and bound.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a name is, or None."""
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
