"""``vitedge sign``, and the verbs that ask for a signature."""

from __future__ import annotations

import getpass
import json
import shutil
import sys
from pathlib import Path

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.signatures import SIGNATURES, trusted_keys
from vitedge.cli import EXIT_ERROR, EXIT_USAGE, main

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a bundle in the current folder, with a key pair beside it."""
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny.bundle")
    monkeypatch.chdir(tmp_path)
    assert main(["sign", "--new-key", "fleet.pem"]) == 0
    return "tiny.bundle"


def test_a_key_is_made_and_a_bundle_signed(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["sign", "--new-key", "new.pem"]) == 0
    key, made = trusted_keys("new.pub.pem")[0].id, capsys.readouterr().out
    assert made.startswith("new.pem  private key, not encrypted")
    assert f"new.pub.pem  public key {key}" in made
    assert main(["sign", bundle, "--key", "new.pem"]) == 0
    assert capsys.readouterr().out == f"tiny.bundle  signed by {key}\n"


def test_inspect_tells_who_signed(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = trusted_keys("fleet.pub.pem")[0].id
    for sign, options, said, json_says in (
        (False, [], "none", ([], None)),
        (True, [], f"signed by {key}, not verified", ([key], None)),
        (True, ["--trust", "fleet.pub.pem"], f"verified: signed by {key}", ([key], key)),
    ):
        if sign:
            main(["sign", bundle, "--key", "fleet.pem"])
        capsys.readouterr()
        assert main(["inspect", bundle, *options]) == 0
        assert f"\nsignature    {said}" in capsys.readouterr().out
        assert main(["inspect", bundle, "--json", *options]) == 0
        value = json.loads(capsys.readouterr().out)
        assert (value["signed_by"], value["verified_by"]) == json_says


@pytest.mark.parametrize("verb", [["run", "--source", "no.png"], ["inspect"], ["build"]], ids=lambda verb: verb[0])
class TestVerbs:
    def test_an_unsigned_bundle_is_refused(
        self, verb: list[str], bundle: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name, *options = verb
        Path("keys").mkdir()
        shutil.copy("fleet.pub.pem", "keys")
        for asked in (["--trust", "fleet.pub.pem"], ["--trust", "keys", "--require-signature"]):
            assert main([name, bundle, *options, *asked]) == EXIT_ERROR
            assert "error: tiny.bundle is not signed" in capsys.readouterr().err

    def test_a_signature_that_is_required_needs_keys(
        self, verb: list[str], bundle: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name, *options = verb
        assert main([name, bundle, *options, "--require-signature"]) == EXIT_USAGE
        assert "--require-signature needs the keys to trust" in capsys.readouterr().err

    def test_a_signed_bundle_gets_further(
        self, verb: list[str], bundle: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name, *options = verb
        main(["sign", bundle, "--key", "fleet.pem"])
        main([name, bundle, *options, "--require-signature", "--trust", "fleet.pub.pem"])
        assert "sign" not in capsys.readouterr().err


def test_an_image_goes_through_a_signed_bundle(bundle: str, colour_frame, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("PIL.Image")
    import photos

    photos.save_image(Path("red.png"), colour_frame("red"))
    main(["sign", bundle, "--key", "fleet.pem"])
    capsys.readouterr()
    asked = ["--require-signature", "--trust", "fleet.pub.pem"]
    assert main(["run", bundle, "--source", "red.png", "--jsonl", "-", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "red"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tiny.bundle"],
        ["--key", "fleet.pem"],
        ["tiny.bundle", "--new-key", "other.pem"],
        ["tiny.bundle", "--key", "fleet.pem", "--new-key", "other.pem"],
    ],
)
def test_half_a_request_is_one_clear_error(
    arguments: list[str], bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", *arguments]) == EXIT_USAGE
    assert "vitedge sign BUNDLE --key FILE, or vitedge sign --new-key FILE" in capsys.readouterr().err
    assert not Path("tiny.bundle", SIGNATURES).exists()
    assert not Path("other.pem").exists()


@pytest.fixture
def encrypted(bundle: str) -> str:
    private = serialization.load_pem_private_key(Path("fleet.pem").read_bytes(), None)
    Path("encrypted.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    return "encrypted.pem"


def test_the_passphrase_of_an_encrypted_key_is_asked_for(
    bundle: str, encrypted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "open sesame" if encrypted in prompt else "")
    assert main(["sign", bundle, "--key", encrypted]) == 0
    assert Bundle.open(bundle, trust="fleet.pub.pem").signed_by


def test_without_a_terminal_an_encrypted_key_is_one_clear_error(
    bundle: str, encrypted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["sign", bundle, "--key", encrypted]) == EXIT_USAGE
    assert "no terminal to ask for its passphrase" in capsys.readouterr().err
