"""Signed files, read back by the C2PA library's own reader."""

from __future__ import annotations

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artgen.codecs.credentials import Credentials, Signer
from artgen.codecs.encode import Format, encode
from artgen.codecs.marking import TERMS, Mark
from artgen.codecs.metadata import Metadata
from artgen.errors import RestoreFailed, RunError, UsageError
from tests import certificates

c2pa = pytest.importorskip("c2pa")

MARK = Mark("trainedAlgorithmicMedia", "artgen r3 generator", "sha256:00ff", "seed 3")
REPAIR = Mark("algorithmicallyEnhanced", "artgen default", "sha256:ff00")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def pair() -> certificates.Pair:
    return certificates.make()


@pytest.fixture(scope="module")
def signer(pair: certificates.Pair) -> Signer:
    return Signer(Credentials(pair.certificates, pair.key))


def written(format: Format = "png") -> bytes:
    return encode(PIXELS, None, Metadata(), format=format).data


def manifest(data: bytes, format: str = "png") -> tuple[str, dict[str, Any]]:
    """Whether the file is as it was signed, and what it says."""
    with c2pa.Reader(f"image/{format}", io.BytesIO(data)) as reader:
        told = json.loads(reader.json())
        return reader.get_validation_state(), told["manifests"][told["active_manifest"]]


def actions(told: dict[str, Any]) -> list[dict[str, Any]]:
    (assertion,) = told["assertions"]
    return assertion["data"]["actions"]


@pytest.mark.parametrize("kind", sorted(certificates.KINDS))
def test_every_kind_of_key_signs(kind: str) -> None:
    made = certificates.make(kind)
    state, told = manifest(
        Signer(Credentials(made.certificates, made.key)).created(written(), "png", MARK, "a.png")
    )
    assert state == "Valid"
    assert told["signature_info"]["alg"].lower() == kind


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_drawn_picture_says_what_drew_it_and_keeps_its_pixels(signer: Signer, format: Format) -> None:
    plain = written(format)
    signed = signer.created(plain, format, MARK, "3.png")
    state, told = manifest(signed, format)
    assert state == "Valid"
    (created,) = actions(told)
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"] == TERMS + "trainedAlgorithmicMedia"
    assert created["softwareAgent"] == {"name": "artgen r3 generator", "version": "sha256:00ff"}
    assert (created["description"], told["title"], told["claim_generator_info"][0]["name"]) == (
        "seed 3",
        "3.png",
        "artgen",
    )
    with Image.open(io.BytesIO(plain)) as before, Image.open(io.BytesIO(signed)) as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert before.info.get("xmp") == after.info.get("xmp")
    # No thumbnail: a manifest of some kilobytes, not a second picture.
    assert len(signed) - len(plain) < 5000


def test_a_changed_file_is_found_out(signer: Signer) -> None:
    signed = bytearray(signer.created(written(), "png", MARK, "3.png"))
    signed[-20] ^= 1
    state, _ = manifest(bytes(signed))
    assert state == "Invalid"


def test_a_restored_picture_was_opened_and_edited(signer: Signer) -> None:
    source = b"BM, as if it were a bitmap"
    state, told = manifest(signer.edited(written(), "png", REPAIR, "scan.bmp.png", source).data)
    assert state == "Valid"
    opened, edited = actions(told)
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == TERMS + "algorithmicallyEnhanced"
    (parent,) = told["ingredients"]
    assert parent["relationship"] == "parentOf"
    assert "active_manifest" not in parent


def test_what_nothing_changed_was_only_converted(signer: Signer) -> None:
    _, told = manifest(signer.edited(written(), "png", None, "a.png", written("jpeg")).data)
    assert [action["action"] for action in actions(told)] == ["c2pa.opened", "c2pa.converted"]


def test_credentials_of_the_source_come_along(signer: Signer) -> None:
    drawn = signer.created(written("jpeg"), "jpeg", MARK, "3.jpg")
    repaired = signer.edited(written(), "png", REPAIR, "3.png", drawn).data
    state, told = manifest(repaired)
    assert state == "Valid"
    (parent,) = told["ingredients"]
    with c2pa.Reader("image/png", io.BytesIO(repaired)) as reader:
        before = reader.get_manifest(parent["active_manifest"])
    assert actions(before)[0]["digitalSourceType"] == TERMS + "trainedAlgorithmicMedia"


def test_broken_credentials_of_the_source_are_left_out_and_told(signer: Signer) -> None:
    broken = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x04jumbjumb" * 4
    signed = signer.edited(written(), "png", REPAIR, "a.png", broken)
    assert "credentials that cannot be read" in " ".join(signed.notes)
    state, told = manifest(signed.data)
    assert (state, told["ingredients"][0]["relationship"]) == ("Valid", "parentOf")


def test_a_file_that_cannot_be_signed_fails_with_the_fix(signer: Signer) -> None:
    with pytest.raises(RestoreFailed, match=r"could not be signed: .*leave --c2pa out"):
        signer.created(b"no PNG at all", "png", MARK, "a.png")


def test_threads_share_a_signer(signer: Signer) -> None:
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda number: signer.created(written(), "png", MARK, f"{number}.png"), range(64)))
    told = [manifest(data) for data in signed]
    assert {state for state, _ in told} == {"Valid"}
    assert [facts["title"] for _, facts in told] == [f"{number}.png" for number in range(64)]


def test_keys_that_cannot_sign_are_refused_with_the_fix(pair: certificates.Pair) -> None:
    other = certificates.make()
    for wrong in (
        Credentials(pair.certificates, other.key),
        Credentials(pair.certificates, b"no key"),
        Credentials(b"no certificate", pair.key),
        Credentials(pair.certificates[len(pair.certificates) // 2 :], pair.key),
    ):
        with pytest.raises(UsageError, match=r"--c2pa: .*PEM files"):
            Signer(wrong)


def test_a_key_is_never_shown(pair: certificates.Pair) -> None:
    credentials = Credentials(pair.certificates, pair.key)
    assert "PRIVATE" not in repr(credentials)
    assert credentials.signer == "CN=signer,O=artgen tests"


def test_no_address_in_a_picture_is_opened(signer: Signer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
            f'rdf:about="" xmlns:d="http://purl.org/dc/terms/" d:provenance="{address}" note="jumb"/></rdf:RDF></x:xmpmeta>'
        )
        source = encode(PIXELS, None, Metadata(xmp=xmp.encode()), format="png").data
        signed = signer.edited(written(), "png", REPAIR, "a.png", source)
        with pytest.raises(TimeoutError):
            server.accept()
    assert manifest(signed.data)[0] == "Valid"


def test_a_certificate_that_ends_meanwhile_ends_the_run(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signer, "_ends", certificates.START)
    with pytest.raises(RunError, match="ended on 2026-01-01: renew it"):
        signer.created(b"what cannot be signed", "png", MARK, "a.png")
