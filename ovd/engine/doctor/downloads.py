"""Weights that are fetched when they are first needed: which are here already, and where the others come from."""

from ovd.engine.doctor.findings import Finding
from ovd.engine.public_weights import photos_downloads


def look_at_downloads() -> list[Finding]:
    """What ``--model photos`` fetches."""
    found = []
    for download in photos_downloads():
        facts = {"address": download.address, "folder": str(download.folder), "here": download.is_here}
        if download.is_here:
            found.append(Finding("--model photos", f"{download.what}: is in {download.folder}", facts=facts))
        else:
            text = f"{download.what}: not here yet; the first use downloads {download}"
            remedy = "ovd detect PHOTOS --model photos --words WORDS  (once, with a network)"
            found.append(Finding("--model photos", text, "note", remedy, facts))
    return found
