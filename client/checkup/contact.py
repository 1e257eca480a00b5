"""The way to the coordinator, asked for only when the person says so."""

from __future__ import annotations

import socket
import ssl

from cryptography import x509

from client.checkup.finding import Ailment
from client.service.kit import CA_FILE
from client.service.reachability import TIMEOUT_S, Address, UnreachableError, parse_address, probe
from client.site import Site


def contact(site: Site) -> str:
    """The coordinator answers over TLS with a certificate of the kit's authority."""
    coordinator = site.config.coordinator
    if coordinator is None:
        return "does not apply: no kit was taken yet"
    address = parse_address(coordinator.address)
    try:
        probe(address, site.folder / coordinator.ca_certificate)
    except UnreachableError as error:
        issuer = None if error.may_pass else presented_issuer(address)
        if issuer is None:
            raise
        msg = f"{error} The certificate that came was issued by: {issuer}."
        raise Ailment(msg) from error
    return f"{address} answers with a certificate of the kit's authority ({CA_FILE})"


def presented_issuer(address: Address) -> str | None:
    """Who issued the certificate that is presented at an address; None if none came.

    The connection trusts nobody and carries nothing: it only reads the name.
    """
    curious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    curious.check_hostname, curious.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=TIMEOUT_S) as plain,
            curious.wrap_socket(plain, server_hostname=address.host) as connection,
        ):
            presented = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    if presented is None:
        return None
    return x509.load_der_x509_certificate(presented).issuer.rfc4514_string()
