"""Signed bundles: what a device that trusts a key takes, and what it refuses and why."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vitedge
from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.bundle.signatures import SIGNATURES, PublicKey, read_signatures, trusted_keys
from vitedge.bundle.signing import new_key, public_path, sign
from vitedge.errors import BundleIntegrityError, BundleSignatureError, OutputError, UsageError
from vitedge.safety.limits import BUNDLE_SIGNATURES, SIGNATURES_BYTES, TRUSTED_KEYS

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "fleet.pem")
    return tmp_path / "fleet.pem"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to write into."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "tiny.bundle"))


@pytest.fixture
def signed(bundle: Path, key: Path) -> Path:
    sign(bundle, key=key)
    return bundle


def refusal(bundle: Path, trust: Any) -> str:
    with pytest.raises(BundleSignatureError) as caught:
        Bundle.open(bundle, trust=trust)
    return caught.value.problem


def edit_signatures(bundle: Path, **changes: object) -> None:
    path = bundle / SIGNATURES
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestTrust:
    def test_a_signed_bundle_is_taken(self, signed: Path, key: Path) -> None:
        opened = Bundle.open(signed, trust=public_path(key))
        assert opened.signed_by == trusted_keys(public_path(key))[0].id

    def test_without_trust_no_signature_is_asked_for(self, bundle: Path) -> None:
        assert Bundle.open(bundle).signed_by is None

    def test_without_trust_even_a_damaged_signature_is_left_alone(self, signed: Path) -> None:
        (signed / SIGNATURES).write_text("damaged")
        assert Bundle.open(signed).signed_by is None

    def test_an_unsigned_bundle_is_refused(self, bundle: Path, key: Path) -> None:
        assert refusal(bundle, public_path(key)) == f"{bundle} is not signed"

    def test_a_key_that_is_not_trusted_is_named(self, signed: Path, key: Path, tmp_path: Path) -> None:
        other = new_key(tmp_path / "other.pem")
        ours = trusted_keys(public_path(key))[0]
        with pytest.raises(BundleSignatureError, match=f"signed by {ours.id}, which is not trusted here") as caught:
            Bundle.open(signed, trust=tmp_path / "other.pub.pem")
        assert other.id in caught.value.expected

    @pytest.mark.parametrize("change", [lambda text: text + " ", lambda text: text.replace("red", "rad", 1)])
    def test_an_altered_manifest_is_refused(self, signed: Path, key: Path, change: Callable[[str], str]) -> None:
        (signed / MANIFEST).write_text(change((signed / MANIFEST).read_text()))
        assert "was altered after" in refusal(signed, public_path(key))

    def test_an_altered_file_is_refused(self, signed: Path, key: Path) -> None:
        (signed / "labels.txt").write_bytes(b"rad\ngreen\nblue\n"[: (signed / "labels.txt").stat().st_size])
        with pytest.raises(vitedge.VitedgeError, match=r"altered|bytes"):
            Bundle.open(signed, trust=public_path(key))

    def test_the_signature_of_another_bundle_is_refused(self, signed: Path, key: Path, tiny_bundle: Bundle) -> None:
        other = signed.with_name("other.bundle")
        shutil.copytree(tiny_bundle.path, other)
        (other / MANIFEST).write_text((other / MANIFEST).read_text() + "\n")
        shutil.copy(signed / SIGNATURES, other / SIGNATURES)
        assert "was altered after" in refusal(other, public_path(key))

    def test_a_signature_under_the_name_of_a_trusted_key_is_refused(
        self, signed: Path, key: Path, tmp_path: Path
    ) -> None:
        new_key(tmp_path / "thief.pem")
        (signed / SIGNATURES).unlink()
        thief = sign(signed, key=tmp_path / "thief.pem")
        ours = trusted_keys(public_path(key))[0]
        text = (signed / SIGNATURES).read_text().replace(thief.id, ours.id)
        (signed / SIGNATURES).write_text(text)
        assert "was altered after" in refusal(signed, public_path(key))

    def test_the_bytes_that_are_verified_are_those_that_are_parsed(
        self, signed: Path, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The manifest is replaced right after it was verified."""
        from vitedge.bundle import bundle as module

        verify = module.verify

        def verify_then_replace(*arguments: Any) -> str:
            signer = verify(*arguments)
            (signed / MANIFEST).write_text((signed / MANIFEST).read_text().replace("dominant_colour", "replaced"))
            return signer

        monkeypatch.setattr(module, "verify", verify_then_replace)
        assert Bundle.open(signed, trust=public_path(key)).manifest.model.name == "dominant_colour"

    @pytest.mark.parametrize(
        "damage",
        [
            "",
            "[]",
            "{" * 100_000,
            '{"version": 1}',
            '{"version": 1, "algorithm": "none", "signatures": []}',
            '{"version": 1, "algorithm": "ed25519", "signatures": [{"key": "x", "signature": ""}]}',
            '{"version": 1, "algorithm": "ed25519", "signatures": [{"key": "0123456789abcdef", "signature": "AA=="}]}',
            '{"version": 1, "algorithm": "ed25519", "signatures": [{"key": "0123456789abcdef", "signature": "é"}]}',
            " " * (SIGNATURES_BYTES + 1),
            "\ud800",
        ],
    )
    def test_damaged_signatures_are_one_clear_error(self, signed: Path, key: Path, damage: str) -> None:
        (signed / SIGNATURES).write_bytes(damage.encode("utf-8", "surrogatepass"))
        assert "manifest.sig cannot be read" in refusal(signed, public_path(key))

    @pytest.mark.timeout(10)
    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
    def test_what_is_no_file_is_no_signature(self, signed: Path, key: Path, make: Callable[[Path], None]) -> None:
        (signed / SIGNATURES).unlink()
        make(signed / SIGNATURES)
        assert "manifest.sig cannot be read" in refusal(signed, public_path(key))

    def test_no_signature_is_valid_where_the_list_is_empty(self, signed: Path, key: Path) -> None:
        edit_signatures(signed, signatures=[])
        assert "is not signed" in refusal(signed, public_path(key))

    @pytest.mark.parametrize("changes", [{"version": 2}, {"algorithm": "ed448"}])
    def test_signatures_of_a_later_vitedge_are_refused(
        self, signed: Path, key: Path, changes: dict[str, object]
    ) -> None:
        edit_signatures(signed, **changes)
        assert "manifest.sig cannot be read" in refusal(signed, public_path(key))

    def test_more_signatures_than_anybody_needs_are_refused(self, signed: Path, key: Path) -> None:
        (one,) = json.loads((signed / SIGNATURES).read_text())["signatures"]
        edit_signatures(signed, signatures=[one] * (BUNDLE_SIGNATURES + 1))
        assert "17 signatures" in refusal(signed, public_path(key))


class TestRotation:
    @pytest.fixture
    def keys(self, bundle: Path, tmp_path: Path) -> tuple[PublicKey, PublicKey]:
        """The old key and the new one, which have both signed the bundle."""
        pair = new_key(tmp_path / "old.pem"), new_key(tmp_path / "new.pem")
        for name in ("old", "new"):
            sign(bundle, key=tmp_path / f"{name}.pem")
        return pair

    def test_devices_with_either_key_take_it(
        self, keys: tuple[PublicKey, PublicKey], bundle: Path, tmp_path: Path
    ) -> None:
        for name, key in zip(("old", "new"), keys, strict=True):
            assert Bundle.open(bundle, trust=tmp_path / f"{name}.pub.pem").signed_by == key.id

    def test_a_device_with_both_keys_takes_bundles_of_either(
        self, keys: tuple[PublicKey, PublicKey], bundle: Path, tmp_path: Path
    ) -> None:
        both = [tmp_path / "old.pub.pem", tmp_path / "new.pub.pem"]
        signatures = json.loads((bundle / SIGNATURES).read_text())["signatures"]
        for each in signatures:
            edit_signatures(bundle, signatures=[each])
            assert Bundle.open(bundle, trust=both).signed_by == each["key"]

    def test_a_key_that_was_withdrawn_is_not_trusted(
        self, keys: tuple[PublicKey, PublicKey], bundle: Path, tmp_path: Path
    ) -> None:
        (old, _) = json.loads((bundle / SIGNATURES).read_text())["signatures"]
        edit_signatures(bundle, signatures=[old])
        assert "not trusted" in refusal(bundle, tmp_path / "new.pub.pem")

    def test_an_invalid_signature_does_not_spoil_a_valid_one(
        self, keys: tuple[PublicKey, PublicKey], bundle: Path, tmp_path: Path
    ) -> None:
        old, new = json.loads((bundle / SIGNATURES).read_text())["signatures"]
        edit_signatures(bundle, signatures=[{**old, "signature": new["signature"]}, new])
        both = [tmp_path / "old.pub.pem", tmp_path / "new.pub.pem"]
        assert Bundle.open(bundle, trust=both).signed_by == keys[1].id


class TestSign:
    def test_signing_again_replaces_the_own_signature(self, signed: Path, key: Path) -> None:
        manifest = json.loads((signed / MANIFEST).read_text())
        (signed / MANIFEST).write_text(json.dumps({**manifest, "host": "another"}))
        assert "was altered" in refusal(signed, public_path(key))
        sign(signed, key=key)
        assert len(read_signatures(signed)) == 1
        assert Bundle.open(signed, trust=public_path(key)).manifest.host == "another"

    def test_nothing_else_is_written_into_the_bundle(self, bundle: Path, key: Path) -> None:
        before = sorted(bundle.rglob("*"))
        sign(Bundle.open(bundle), key=key)
        assert sorted(bundle.rglob("*")) == sorted([*before, bundle / SIGNATURES])

    def test_a_signature_that_cannot_be_written_leaves_the_old_one(
        self, signed: Path, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = (signed / SIGNATURES).read_bytes()

        def full(*_: object, **__: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OutputError, match="No space left"):
            sign(signed, key=key)
        assert (signed / SIGNATURES).read_bytes() == before

    def test_a_manifest_that_changes_meanwhile_is_not_signed(
        self, bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = Bundle.open(bundle)
        (bundle / MANIFEST).write_text((bundle / MANIFEST).read_text().replace("dominant_colour", "replaced"))
        monkeypatch.setattr(Bundle, "open", lambda *_, **__: opened)
        with pytest.raises(BundleIntegrityError, match="has changed since"):
            sign(bundle, key=key)

    def test_a_bundle_that_is_full_of_signatures_takes_no_other(self, signed: Path, key: Path, tmp_path: Path) -> None:
        (one,) = json.loads((signed / SIGNATURES).read_text())["signatures"]
        others = [{**one, "key": f"{number:016x}"} for number in range(BUNDLE_SIGNATURES)]
        edit_signatures(signed, signatures=others)
        with pytest.raises(UsageError, match="has 16 signatures") as caught:
            sign(signed, key=key)
        assert "remove" in caught.value.fix

    def test_an_altered_bundle_is_not_signed(self, bundle: Path, key: Path) -> None:
        (bundle / "labels.txt").write_text("altered")
        with pytest.raises(vitedge.VitedgeError, match=r"labels\.txt"):
            sign(bundle, key=key)
        assert not (bundle / SIGNATURES).exists()

    def test_the_signature_is_over_the_bytes_of_the_manifest(self, signed: Path, key: Path, tmp_path: Path) -> None:
        """As openssl checks it."""
        if shutil.which("openssl") is None:
            private = serialization.load_pem_private_key(key.read_bytes(), None)
            assert bytes_of(signed) == private.sign((signed / MANIFEST).read_bytes())
            return
        (tmp_path / "signature").write_bytes(bytes_of(signed))
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public_path(key)]
        subprocess.run([*command, "-in", signed / MANIFEST, "-sigfile", tmp_path / "signature"], check=True)

    def test_an_encrypted_key_needs_its_passphrase(self, bundle: Path, tmp_path: Path) -> None:
        pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
        for wrong in (None, "close sesame"):
            with pytest.raises(UsageError, match="no private key that can be read"):
                sign(bundle, key=pem, passphrase=wrong)
        signed_by = sign(bundle, key=pem, passphrase="open sesame")
        assert read_signatures(bundle)[0].key == signed_by.id

    @pytest.mark.parametrize(
        "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_what_is_no_private_key_is_one_clear_error(self, bundle: Path, content: bytes) -> None:
        with pytest.raises(UsageError, match="no private key"):
            sign(bundle, key=content)

    def test_a_missing_key_says_how_to_make_one(self, bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read") as caught:
            sign(bundle, key=tmp_path / "no.pem")
        assert "vitedge.new_key(" in caught.value.fix

    def test_a_key_of_another_kind_is_refused(self, bundle: Path) -> None:
        with pytest.raises(UsageError, match="another kind"):
            sign(
                bundle,
                key=other_kind().private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
            )


def bytes_of(bundle: Path) -> bytes:
    import base64

    (signature,) = read_signatures(bundle)
    return base64.b64decode(signature.signature)


def other_kind() -> Any:
    return pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed448").Ed448PrivateKey.generate()


class TestKeys:
    def test_a_new_key_is_its_owners_alone_and_the_public_one_everybodys(self, tmp_path: Path) -> None:
        made = new_key(tmp_path / "fleet.pem")
        assert stat.S_IMODE((tmp_path / "fleet.pem").stat().st_mode) == 0o600
        assert trusted_keys(tmp_path / "fleet.pub.pem") == (made,)
        assert b"PRIVATE" not in (tmp_path / "fleet.pub.pem").read_bytes()

    @pytest.mark.parametrize("taken", ["fleet.pem", "fleet.pub.pem"])
    @pytest.mark.parametrize("dangling", [False, True])
    def test_no_key_is_overwritten(self, tmp_path: Path, taken: str, dangling: bool) -> None:
        if dangling:
            (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
        else:
            (tmp_path / taken).write_text("kept")
        with pytest.raises(UsageError, match="never overwrites a key"):
            new_key(tmp_path / "fleet.pem")
        assert [each.name for each in tmp_path.iterdir()] == [taken]

    def test_a_key_that_appears_meanwhile_is_not_overwritten(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os.path, "lexists", lambda path: False)
        (tmp_path / "fleet.pem").write_text("kept")
        with pytest.raises(UsageError, match="File exists"):
            new_key(tmp_path / "fleet.pem")
        assert (tmp_path / "fleet.pem").read_text() == "kept"

    def test_more_keys_than_anybody_trusts_are_refused(self, key: Path, tmp_path: Path) -> None:
        folder = tmp_path / "keys"
        folder.mkdir()
        for number in range(TRUSTED_KEYS + 1):
            (folder / f"{number}.pem").symlink_to(public_path(key))
        with pytest.raises(UsageError, match="1001 keys; the limit is 1000"):
            trusted_keys(folder)

    def test_no_half_of_a_pair_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = os.open

        def open_(path: object, *arguments: Any) -> int:
            if str(path).endswith(".pub.pem"):
                raise OSError(28, "No space left on device")
            return opened(path, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", open_)
        with pytest.raises(OutputError, match="No space left"):
            new_key(tmp_path / "fleet.pem")
        assert list(tmp_path.iterdir()) == []

    def test_trust_is_a_file_a_folder_bytes_or_several(self, tmp_path: Path) -> None:
        folder = tmp_path / "keys"
        folder.mkdir()
        made = {new_key(tmp_path / f"{name}.pem") for name in "abc"}
        for name in "ab":
            shutil.copy(tmp_path / f"{name}.pub.pem", folder)
        (folder / "README").write_text("no key")
        content = (tmp_path / "c.pub.pem").read_bytes()
        both = content + (tmp_path / "a.pub.pem").read_bytes()
        assert len(trusted_keys(folder)) == 2
        assert set(trusted_keys([folder, content])) == made
        assert set(trusted_keys([str(folder), tmp_path / "c.pub.pem"])) == made
        assert len(trusted_keys(both)) == 2
        assert set(trusted_keys([each.raw for each in made])) == made

    @pytest.mark.parametrize("trust", [[], (), b"", b"no key"])
    def test_no_key_is_no_trust(self, trust: Any) -> None:
        with pytest.raises(UsageError, match=r"no key is trusted|has no public key"):
            trusted_keys(trust)

    def test_an_empty_folder_or_a_missing_file_is_no_trust(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"has no \.pem file"):
            trusted_keys(tmp_path)
        with pytest.raises(UsageError, match="cannot be read"):
            trusted_keys(tmp_path / "no.pub.pem")

    def test_one_file_that_is_no_key_spoils_a_folder(self, key: Path, tmp_path: Path) -> None:
        """Whoever put it there meant to trust it."""
        (tmp_path / "fleet.pem").unlink()
        (tmp_path / "other.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        with pytest.raises(UsageError, match=r"other\.pem is no public key"):
            trusted_keys(tmp_path)

    def test_a_private_key_on_a_device_is_refused(self, key: Path) -> None:
        with pytest.raises(UsageError, match="is a private key") as caught:
            trusted_keys(key)
        assert "take the private one off this machine" in caught.value.fix

    def test_a_key_of_another_kind_is_not_trusted(self) -> None:
        pem = (
            other_kind()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        with pytest.raises(UsageError, match="another kind"):
            trusted_keys(pem)

    @pytest.mark.timeout(10)
    def test_a_fifo_is_no_key(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo.pem")
        for trust in (tmp_path, tmp_path / "fifo.pem"):
            with pytest.raises(UsageError, match="FIFO"):
                trusted_keys(trust)


def test_load_takes_what_a_trusted_key_signed_and_nothing_else(signed: Path, key: Path, tiny_bundle: Bundle) -> None:
    with vitedge.load(signed, trust=public_path(key)) as classifier:
        assert classifier.labels == ("red", "green", "blue")
    for unsigned in (tiny_bundle, tiny_bundle.path):
        with pytest.raises(BundleSignatureError, match="is not signed"):
            vitedge.load(unsigned, trust=public_path(key))


def test_a_bundle_that_is_open_is_read_again_for_its_signature(signed: Path, key: Path) -> None:
    opened = Bundle.open(signed)
    forged = replace(opened, manifest=replace(opened.manifest, host="forged"))
    with vitedge.load(forged, trust=public_path(key)):
        pass
    (signed / SIGNATURES).unlink()
    with pytest.raises(BundleSignatureError):
        vitedge.load(opened, trust=public_path(key))


def test_no_key_is_made_in_a_bundle(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="lies in the bundle"):
        new_key(tiny_bundle.path / "key.pem")
    Bundle.open(tiny_bundle.path)
