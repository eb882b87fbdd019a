"""Who is at the other end of a connection (R11)."""

from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest


def address(request: HttpRequest) -> str:
    """The client's IP address: the socket's, or what the outermost trusted proxy saw.

    Each of the TRUSTED_PROXIES appends who spoke to it, so counted from the right their entries
    can be trusted; what stands before them is whatever the client wrote.
    """
    socket_address: str = request.META.get("REMOTE_ADDR", "")
    if not settings.TRUSTED_PROXIES:
        return socket_address
    forwarded = [
        part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",") if part
    ]
    if len(forwarded) < settings.TRUSTED_PROXIES:
        return socket_address
    try:
        # Without the zone of IPv6, which may be any text.
        return str(ip_address(forwarded[-settings.TRUSTED_PROXIES].partition("%")[0]))
    except ValueError:  # fewer proxies than are trusted, or one that says "unknown"
        return socket_address
