"""Device classes: who must compute equal bits in class mode.

Fast kernels leave rounding details to compiler and hardware, so their bits are a function of the
device as well. Devices are of one class when they have the same name and driver, generate the same
kernels and come to the same results with them; within a class verification is hash equality, as it
is among all devices in exact mode. A class is named by sources and results, never by binaries:
those differ from build to build on some runtimes.

What an offer says of itself is believed only as far as audits go: a device that claims a class
whose bits it does not compute loses the first audit.
"""

from __future__ import annotations

from flopmarket.trust.documents import Label, OfferTerms
from flopmarket.trust.encoding import Digest, digest, document
from flopmarket.trust.modes import Mode


@document("flopmarket.device-class.v1")
class DeviceClass:
    """What devices of one class have in common.

    ``kernels`` is the sha256 digest over generated sources and build options of the class suite,
    ``results`` over what they compute (:mod:`flopmarket.engine.runtime`).
    """

    device_name: Label
    driver: Label
    kernels: Digest
    results: Digest


def class_digest(device_class: DeviceClass) -> bytes:
    """The 32 bytes that name a class; shown as hex."""
    return digest(device_class)


def class_of(terms: OfferTerms) -> bytes | None:
    """The class that an offer is of; None when it does not offer class mode."""
    if Mode.CLASS not in terms.modes:
        return None
    return class_digest(
        DeviceClass(terms.device_name, terms.driver, terms.class_kernels, terms.class_results)
    )
