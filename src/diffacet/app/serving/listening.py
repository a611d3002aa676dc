"""Where a service listens, and who may reach it there."""

import errno
import ipaddress
import socket

from diffacet.app.serving.options import ServeOptions
from diffacet.errors import BadSetting


def bind(options: ServeOptions, open_to_all: bool = False) -> socket.socket:
    """A socket at the address of `options` that does not listen yet.

    Raises:
        BadSetting: no address of this machine, taken, or open to others without keys and without saying so.
    """
    if options.keys and open_to_all:
        raise BadSetting("--no-auth and --api-key-file exclude each other; leave one of them out", field="keys")
    try:
        found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadSetting(f"--host {options.host} is no address of this machine ({error})", field="host") from error
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    if not (ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback or options.keys or open_to_all):
        raise BadSetting(
            f"--host {options.host} can be reached from other machines: name a file of keys with --api-key-file, of"
            " which every request must show one, or say --no-auth to let anybody ask",
            field="host",
        )
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise refusal(error, options) from error
    return listener


def refusal(error: OSError, options: ServeOptions) -> BadSetting:
    """Why the address of `options` cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        why = "is taken by another process; choose another with --port, or --port 0 for any that is free"
    elif error.errno == errno.EADDRNOTAVAIL:
        why = "is no address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 all of its addresses"
    else:
        why = f"cannot be listened on: {error.strerror}"
    return BadSetting(f"{options.host}, port {options.port} {why}", field="port")


def line(listener: socket.socket, host: str, version: str, items: int, index: str) -> str:
    """What says that a run is served, and where."""
    searched = "no index" if index == "none" else f"{index} index"
    address = f"[{host}]" if ":" in host else host
    return (
        f"serving {version} ({items:,} items, {searched}) on http://{address}:{listener.getsockname()[1]}"
        "  - page, API and /openapi.json; stop with Ctrl-C"
    )
