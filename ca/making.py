"""Making a root."""

import socket
from pathlib import Path

from ca import clock, files, issuing
from ca.files import ROOT_CRT, ROOT_KEY
from ca.lives import ROOT_LIFE


def root(folder: Path, key_file: Path | None = None, passphrase: bytes | None = None) -> set[str]:
    """Writes a new root; gives the names of the files that are in the folder then. Raises OSError."""
    now = clock.now()
    made = issuing.root(socket.gethostname(), now, now + ROOT_LIFE)
    files.write_key(key_file or folder / ROOT_KEY, files.key_pem(made.key, passphrase))
    files.write_certificates(folder / ROOT_CRT, made.certificate)
    return {ROOT_CRT} if key_file else {ROOT_CRT, ROOT_KEY}
