"""Content Credentials: a signed C2PA manifest in a file that says which model made or changed the picture.

C2PA specification 2.2. The signature, unlike the XMP of `marking`, cannot be written by just anybody, and it shows when
the file was changed afterwards. Every signature draws random salts: a file that is signed again holds the same picture
and other bytes.
"""

from __future__ import annotations

import datetime
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from artgen import __version__
from artgen.codecs.encode import Encoded, Format
from artgen.codecs.marking import TERMS, Mark
from artgen.errors import RestoreFailed, RunError, UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# The kinds of source whose own credentials, if they have some, become part of the new ones.
_KINDS = {
    b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp", b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff", b"GIF8": "image/gif",
}  # fmt: skip
_FIX = (
    "give CERT,KEY as PEM files: a chain for signing (the signer's certificate first, not self-signed) and its private "
    "key as PKCS#8"
)
_PARENT = "parent"
_EC = {256: "es256", 384: "es384", 521: "es512"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a signature is made with. certificates: PEM, the signer's own first. key: its private key, PEM of PKCS#8."""

    certificates: bytes
    key: bytes = field(repr=False)  # Ray logs what it is given

    @property
    def signer(self) -> str:
        """Whose signature it is, which stays when a certificate is renewed. Raises UsageError for what is no certificate."""
        return self.certificate.subject.rfc4514_string()

    @property
    def certificate(self) -> Certificate:
        """The signer's own. Raises UsageError for what is no certificate."""
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificates(self.certificates)[0]
        except ValueError as error:
            raise UsageError(f"--c2pa: the certificate cannot be read ({error}): {_FIX}") from error


class Signer:
    """Signs files of PNG, JPEG and WebP; thread-safe. No clock of a third party: a signature counts as long as its certificate.

    Raises UsageError where c2pa-python is not installed, and where the certificate or the key cannot sign.
    """

    def __init__(self, credentials: Credentials) -> None:
        try:
            import c2pa
        except ImportError as error:
            raise UsageError("--c2pa needs the package c2pa-python: pip install 'artgen[c2pa]'") from error
        self._c2pa: Any = c2pa
        try:
            info = c2pa.C2paSignerInfo(
                _algorithm(credentials).encode(), credentials.certificates, credentials.key, None
            )
            # A thumbnail is a second picture, of which nobody asked for; and no address in a picture is ever opened.
            settings = {
                "builder": {"thumbnail": {"enabled": False}},
                "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
            }
            self._context = c2pa.Context.from_dict(settings, signer=c2pa.Signer.from_info(info))
            self._sign(
                _smallest_png(), "png", [_action("c2pa.created", Mark("trainedAlgorithmicMedia", "artgen", ""))], ""
            )
        except c2pa.C2paError as error:
            raise UsageError(f"--c2pa: {error}; {_FIX}") from error
        self._ends = credentials.certificate.not_valid_after_utc

    def created(self, data: bytes, format: Format, mark: Mark, title: str) -> bytes:
        """The file of a picture that a model drew, signed. Raises RunError, RestoreFailed."""
        return self._signed(data, format, [_action("c2pa.created", mark)], title)

    def edited(self, data: bytes, format: Format, mark: Mark | None, title: str, source: bytes) -> Encoded:
        """The file of a picture that was opened and, where there is a mark, changed by a model; else it was only written
        anew. Credentials that the file `source` has come along, as those of the picture before. Raises RestoreFailed.
        """
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}
        change = _action("c2pa.edited", mark) if mark is not None else {"action": "c2pa.converted"}
        kind = next(
            (kind for start, kind in _KINDS.items() if source.startswith(start)), "application/octet-stream"
        )
        parent = {"title": title, "format": kind, "relationship": "parentOf", "label": _PARENT}
        notes: tuple[str, ...] = ()
        if kind.startswith("image/") and b"jumb" in source:
            try:
                return Encoded(self._sign(data, format, [opened, change], title, parent, source))
            except self._c2pa.C2paError as error:
                notes = (f"left out: credentials that cannot be read ({error})",)
        return Encoded(self._signed(data, format, [opened, change], title, parent), notes)

    def _signed(self, data: bytes, format: Format, actions: list[Any], title: str, parent: Any = None) -> bytes:
        try:
            return self._sign(data, format, actions, title, parent)
        except self._c2pa.C2paError as error:
            if datetime.datetime.now(datetime.UTC) > self._ends:  # no picture is to blame
                raise RunError(
                    f"the certificate of --c2pa ended on {self._ends:%Y-%m-%d}: renew it and give the same command again"
                ) from error
            raise RestoreFailed(f"could not be signed: {error}; leave --c2pa out for this picture") from error

    def _sign(
        self, data: bytes, format: Format, actions: list[Any], title: str, parent: dict[str, Any] | None = None,
        source: bytes | None = None,
    ) -> bytes:  # fmt: skip
        manifest = {
            "claim_generator_info": [{"name": "artgen", "version": __version__}],
            "title": title, "format": f"image/{format}",
            "ingredients": [parent] if parent is not None and source is None else [],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
        }  # fmt: skip
        with self._c2pa.Builder(json.dumps(manifest), context=self._context) as builder:
            if parent is not None and source is not None:
                builder.add_ingredient(json.dumps(parent), parent["format"], io.BytesIO(source))
            signed = io.BytesIO()
            builder.sign(f"image/{format}", io.BytesIO(data), signed)
        return signed.getvalue()


def signer_of(credentials: Credentials | None) -> Signer | None:
    """None where nothing is to be signed. Raises as Signer."""
    return None if credentials is None else Signer(credentials)


def _action(name: str, mark: Mark) -> dict[str, Any]:
    action: dict[str, Any] = {
        "action": name, "digitalSourceType": TERMS + mark.source_type,
        "softwareAgent": {"name": mark.system, "version": mark.version},
    }  # fmt: skip
    return {**action, "description": mark.prompt} if mark.prompt else action


def _algorithm(credentials: Credentials) -> str:
    """The name of the signature that fits the certificate's key (C2PA specification 2.2, section 13.2)."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    public = credentials.certificate.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(public, ec.EllipticCurvePublicKey) and public.key_size in _EC:
        return _EC[public.key_size]
    if isinstance(public, rsa.RSAPublicKey):
        return "ps256"
    raise UsageError(
        f"--c2pa: a certificate with a {type(public).__name__} cannot sign: use Ed25519, P-256, P-384, P-521 or RSA; {_FIX}"
    )


def _smallest_png() -> bytes:
    import numpy as np

    from artgen.codecs.png import encode_png

    return encode_png(np.zeros((1, 1, 1), np.uint8))
