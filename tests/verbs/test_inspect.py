from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import vitedge
from vitedge.bundle.bundle import LABELS, Bundle


def test_the_contents_of_a_bundle(tiny_bundle: Bundle) -> None:
    inspection = vitedge.inspect(tiny_bundle.path)
    assert inspection.bundle.manifest == tiny_bundle.manifest
    assert (inspection.signed_by, inspection.engine) == ((), None)
    assert inspection.to_json()["manifest"]["target"] == tiny_bundle.manifest.target


def test_an_open_bundle_is_checked_again(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "some.bundle")
    (bundle.path / LABELS).write_text("forged\n", encoding="utf-8")
    with pytest.raises(vitedge.BundleIntegrityError):
        vitedge.inspect(bundle)


def test_a_trusted_key_is_asked_for(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    vitedge.new_key(tmp_path / "fleet.pem")
    with pytest.raises(vitedge.BundleSignatureError):
        vitedge.inspect(tiny_bundle, trust=tmp_path / "fleet.pub.pem")
