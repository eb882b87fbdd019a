"""Which addresses a request to a provider may go to: one parser, one judgement (A15, R11).

`parse` judges what an administrator typed. A name says nothing about where it leads, so the
client asks `refusal` again for each address that a name resolved to, when it connects.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import parse_qsl, urlsplit

Address = IPv4Address | IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}
# Whitespace and control characters, and what parsers disagree about.
UNSAFE_CHARACTER = re.compile(r"[\s\x00-\x1f\x7f-\x9f\\]")
HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
# Where clouds hand out credentials; 169.254.169.254 and fe80::/10 are link-local anyway.
METADATA = {ip_address(text) for text in ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")}
METADATA_NAMES = {"metadata.google.internal", "metadata"}
THIS_HOST = {ip_address("0.0.0.0"), ip_address("::")}  # noqa: S104 - compared, not bound
# Ranges of IPv6 whose last 32 bits are an IPv4 address that a gateway goes on to.
TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# A query is part of the address that the inspector shows, so it is no place for a secret.
SECRET_PARAMETER = re.compile(r"(^|[_-])(key|apikey|token|secret|password|sig|signature|auth)$")
FUTURE_USE = IPv4Network("240.0.0.0/4")


class BadAddress(ValueError):
    """An address that is not used; the text is a sentence for whoever typed it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who gets a request: scheme, host and port. A key belongs to one of these (contract P9)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """`api.openai.com`, with what is unusual about it: `http://[::1]:8080`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return host if self.scheme == "https" else f"{self.scheme}://{host}"


def parse(url: str, *, private_allowed: bool) -> Origin:
    """Who a request to `url` would go to. Raises BadAddress if nothing may be sent there."""
    if UNSAFE_CHARACTER.search(url):
        raise BadAddress(
            "The address holds a space, a line break, a backslash or a control character."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadAddress(
            "The address cannot be read; write it as https://host:port/path."
        ) from None
    if parts.scheme not in DEFAULT_PORTS:
        raise BadAddress("The address has to begin with https:// or http://.")
    if "@" in parts.netloc:
        raise BadAddress("The address holds a user name (@); put the key into its own field.")
    if "#" in url:
        raise BadAddress("The address holds a # part, which is never sent; remove it.")
    if any(SECRET_PARAMETER.search(name.lower()) for name, _ in parse_qsl(parts.query, True)):
        raise BadAddress("The address holds a key; put it into the field for the key.")
    host = (parts.hostname or "").lower()
    if not host:
        raise BadAddress("The address names no host; write it as https://host:port/path.")
    if port == 0:
        raise BadAddress("Port 0 cannot be connected to.")
    origin = Origin(parts.scheme, host.rstrip("."), port or DEFAULT_PORTS[parts.scheme])
    if reason := _refusal_of_host(host, private_allowed=private_allowed):
        raise BadAddress(f"{origin.host} {reason}.")
    return origin


def refusal(address: str, *, private_allowed: bool) -> str | None:
    """Why nothing is sent to this IP address, as the end of a sentence; None if it may be.

    Link-local, cloud metadata and group addresses are always refused; loopback and the local
    network only where the setting ALLOW_PRIVATE_ADDRESSES is off, as local models live there.
    """
    ip = _behind(ip_address(address.partition("%")[0]))
    if ip.is_link_local or ip in METADATA:
        return "is a link-local or cloud metadata address, which is never used"
    if ip.is_multicast or (isinstance(ip, IPv4Address) and ip in FUTURE_USE):
        return "is no address of a single host"
    if not private_allowed and not ip.is_global:
        return "is in a private network, which ALLOW_PRIVATE_ADDRESSES does not allow"
    return None


def _refusal_of_host(host: str, *, private_allowed: bool) -> str | None:
    ip = _literal(host)
    if ip is not None:
        return refusal(str(ip), private_allowed=private_allowed)
    if not HOST_NAME.fullmatch(host) or len(host) > 253:
        return "is no name of a host (letters outside ASCII are written as xn--)"
    name = host.rstrip(".")
    if name in METADATA_NAMES:
        return "is a cloud metadata address, which is never used"
    if not private_allowed and (name == "localhost" or name.endswith(".localhost")):
        return "is this machine, which ALLOW_PRIVATE_ADDRESSES does not allow"
    return None


def _literal(host: str) -> Address | None:
    """The IP address that `host` is a spelling of, also as a decimal, octal or hex number."""
    if "%" in host:  # the zone of a link-local address, or an attempt to be read in two ways
        return None
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        # What the system's resolver takes for an address: 2852039166, 0xa9.0xfe.43518 and so on.
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, UnicodeEncodeError):
        return None


def _behind(ip: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, else the address itself."""
    if ip in THIS_HOST or isinstance(ip, IPv4Address):
        return ip
    embedded = ip.ipv4_mapped or ip.sixtofour
    if embedded is None and ip != IPv6Address("::1") and any(ip in net for net in TRANSLATED):
        embedded = IPv4Address(int(ip) & 0xFFFF_FFFF)
    return embedded or ip
