"""Certificate chains of two that sign pictures in tests, as C2PA wants them; good for these ten years, trusted by nobody."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
KINDS: dict[str, Any] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


@dataclass(frozen=True, slots=True)
class Pair:
    certificates: bytes
    key: bytes

    def write(self, folder: Path) -> str:
        """CERT,KEY of --c2pa."""
        places = folder / "chain.pem", folder / "key.pem"
        for place, data in zip(places, (self.certificates, self.key), strict=True):
            place.write_bytes(data)
        return ",".join(map(str, places))


def make(kind: str = "ed25519") -> Pair:
    issuer, signer = KINDS[kind](), KINDS[kind]()
    chain = [_certificate("signer", signer, issuer, kind), _certificate("issuer", issuer, issuer, kind)]
    key = signer.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain), key)


def _certificate(name: str, key: Any, issuer: Any, kind: str) -> x509.Certificate:
    signs = name == "signer"
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("issuer"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(not signs, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=signs, key_cert_sign=not signs, crl_sign=not signs, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    if signs:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(issuer, None if kind == "ed25519" else hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "artgen tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
