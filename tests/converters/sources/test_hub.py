"""Downloads, from a hub on this machine."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import checkpoints
import hub_server
import pytest
from hub_server import COMMIT, Hub

import vitedge
from vitedge.bundle.bundle import sha256_of
from vitedge.converters.sources import hub as hub_module
from vitedge.converters.sources.hub import Meter, Snapshot, download_snapshot
from vitedge.converters.sources.parse import HubRepo
from vitedge.converters.stages import exporting
from vitedge.errors import CheckpointError
from vitedge.progress import Silent, Terminal

REPO = "shapes/vit"
FILES = ("config.json", "model.safetensors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In timm's layout, and with files that nobody needs."""
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("hub") / "vit")
    for name in ("README.md", "pytorch_model.bin", "model.onnx", "training_args.bin"):
        (folder / name).write_bytes(b"x" * 1000)
    return folder


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, an empty cache, and a user without a token."""
    with hub_server.serving() as served:
        served.repos[REPO] = checkpoint
        hub_server.use(monkeypatch, served.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def downloads(hub: Hub) -> list[str]:
    return [
        request.rpartition("/")[2] for request in hub.requests if request.startswith("GET") and "resolve" in request
    ]


class TestFetch:
    def test_only_what_is_needed_is_downloaded(self, hub: Hub, checkpoint: Path) -> None:
        snapshot = download_snapshot(HubRepo(REPO), Silent())
        assert snapshot.revision == COMMIT
        assert sorted(path.name for path in snapshot.folder.iterdir()) == sorted(FILES)
        assert sorted(downloads(hub)) == sorted(FILES)
        assert sha256_of(snapshot.folder / "model.safetensors") == sha256_of(checkpoint / "model.safetensors")

    def test_a_second_time_nothing_is(self, hub: Hub) -> None:
        first = download_snapshot(HubRepo(REPO), Silent())
        hub.requests.clear()
        assert download_snapshot(HubRepo(REPO, "main"), Silent()) == first
        assert hub.requests == [
            f"GET /api/models/{REPO}/revision/main",
            f"HEAD /{REPO}/resolve/main/config.json",
        ]

    def test_a_commit_is_a_revision(self, hub: Hub) -> None:
        assert download_snapshot(HubRepo(REPO, COMMIT), Silent()).revision == COMMIT

    def test_shards_and_the_processor(self, hub: Hub, tmp_path: Path) -> None:
        hub.repos["shapes/large"] = tmp_path / "large"
        hub.repos["shapes/large"].mkdir()
        names = ["config.json", "preprocessor_config.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))]
        for name in (*names, "model.safetensors.index.json", "pytorch_model.bin", "flax_model.msgpack"):
            (tmp_path / "large" / name).write_text(name, encoding="utf-8")
        snapshot = download_snapshot(HubRepo("shapes/large"), Silent())
        assert sorted(path.name for path in snapshot.folder.iterdir()) == sorted(names)

    def test_a_broken_connection_is_resumed(self, hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
        hub.cut_after["model.safetensors"] = 30_000
        snapshot = download_snapshot(HubRepo(REPO), Silent())
        assert sha256_of(snapshot.folder / "model.safetensors") == sha256_of(checkpoint / "model.safetensors")
        assert f"GET /{REPO}/resolve/{COMMIT}/model.safetensors bytes=30000-" in hub.requests

    def test_a_token_is_sent(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        download_snapshot(HubRepo(REPO), Silent())
        assert hub.tokens == {""}
        monkeypatch.setenv("HF_TOKEN", "hf_example")
        download_snapshot(HubRepo(REPO), Silent())
        assert hub.tokens == {"", "Bearer hf_example"}

    def test_steps_are_reported_and_the_library_is_silent(self, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        stream, records = io.StringIO(), BufferingHandler(1000)
        logging.getLogger("huggingface_hub").addHandler(records)
        hub.cut_after["model.safetensors"] = 1000
        download_snapshot(HubRepo(REPO), Terminal(stream))
        assert "looking up hf:shapes/vit on the hub" in stream.getvalue()
        assert f"downloading config.json, model.safetensors of commit {COMMIT[:12]}" in stream.getvalue()
        logging.getLogger("huggingface_hub").removeHandler(records)
        assert records.buffer == []
        assert capsys.readouterr() == ("", "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "problem", "fix"),
        [
            (404, "RepoNotFound", "no repository shapes/vit, or you may not read it", "hf auth login"),
            (401, "RepoNotFound", "no repository shapes/vit, or you may not read it", "HF_TOKEN"),
            (401, "GatedRepo", "hf:shapes/vit is gated", "accept them on the page of shapes/vit"),
            (403, "GatedRepo", "hf:shapes/vit is gated", "hf auth login"),
            (500, "", "cannot be downloaded: .*500 Internal Server Error", "hf download shapes/vit --local-dir FOLDER"),
        ],
    )
    def test_what_the_hub_says_no_to(self, hub: Hub, status: int, code: str, problem: str, fix: str) -> None:
        hub.refused[REPO] = (status, code)
        started = time.monotonic()
        with pytest.raises(CheckpointError, match=problem) as caught:
            download_snapshot(HubRepo(REPO), Silent())
        assert fix in caught.value.fix
        assert len(hub.requests) == 1
        assert time.monotonic() - started < 10

    def test_an_unknown_revision(self, hub: Hub) -> None:
        with pytest.raises(CheckpointError, match=r"shapes/vit has no revision 'v2'"):
            download_snapshot(HubRepo(REPO, "v2"), Silent())

    @pytest.mark.parametrize("missing", FILES)
    def test_a_repository_without_a_model(self, hub: Hub, tmp_path: Path, missing: str) -> None:
        hub.repos[REPO] = tmp_path / "incomplete"
        hub.repos[REPO].mkdir()
        for name in {*FILES, "model-00001-of-00002.safetensors"} - {missing}:
            (hub.repos[REPO] / name).touch()
        with pytest.raises(CheckpointError, match="holds no model that vitedge reads") as caught:
            download_snapshot(HubRepo(REPO), Silent())
        assert "config.json" in caught.value.expected
        assert not downloads(hub)

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_that_is_too_large_is_not_downloaded(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(hub_module, "JSON_BYTES" if name.endswith(".json") else "CHECKPOINT_BYTES", 100)
        with pytest.raises(CheckpointError, match=rf"is not downloaded: {name} has [0-9]+ bytes; the limit is 100"):
            download_snapshot(HubRepo(REPO), Silent())
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.incomplete")) == 0

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("name", FILES)
    def test_a_file_ends_where_the_hub_said(self, hub: Hub, name: str, checkpoint: Path, tmp_path: Path) -> None:
        hub.endless.add(name)
        with pytest.raises(CheckpointError, match=f"is not downloaded: {name} is longer than"):
            download_snapshot(HubRepo(REPO), Silent())
        size = (checkpoint / name).stat().st_size
        assert all(path.stat().st_size <= size for path in tmp_path.rglob("*.incomplete"))

    def test_names_that_lead_elsewhere_are_not_chosen(self, hub: Hub) -> None:
        hub.listed += ["../model.safetensors", "/etc/model.safetensors", "a/../../config.json", "..", "model.bin\n"]
        hub.listed += ["x/model-00001-of-00001.safetensors", "../preprocessor_config.json"]
        snapshot = download_snapshot(HubRepo(REPO), Silent())
        assert sorted(path.name for path in snapshot.folder.iterdir()) == sorted(FILES)
        assert sorted(downloads(hub)) == sorted(FILES)

    def test_a_name_that_the_hub_could_not_have(self, hub: Hub) -> None:
        with pytest.raises(CheckpointError, match="not a name of the hub"):
            download_snapshot(HubRepo("shapes/vit--"), Silent())


class TestNoNetwork:
    def test_the_local_alternative_is_named(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub_server.use(monkeypatch, hub_server.unused_url())
        with pytest.raises(CheckpointError, match="hf:shapes/vit cannot be downloaded: ConnectError") as caught:
            download_snapshot(HubRepo(REPO), Silent())
        assert "hf download shapes/vit --local-dir FOLDER" in caught.value.fix

    def test_offline_by_choice(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="cannot be downloaded: HF_HUB_OFFLINE is set"):
            download_snapshot(HubRepo(REPO), Silent())
        assert not hub.requests

    @pytest.mark.parametrize("revision", ["", "main", COMMIT])
    def test_the_copy_in_the_cache_serves(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
        online = download_snapshot(HubRepo(REPO, revision), Silent())
        hub_server.use(monkeypatch, hub_server.unused_url())
        stream = io.StringIO()
        assert download_snapshot(HubRepo(REPO, revision), Terminal(stream)) == online
        assert f"using the copy of commit {COMMIT[:12]}" in stream.getvalue()

    def test_half_a_copy_does_not(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshot = download_snapshot(HubRepo(REPO), Silent())
        (snapshot.folder / "model.safetensors").unlink()
        hub_server.use(monkeypatch, hub_server.unused_url())
        with pytest.raises(CheckpointError, match="cannot be downloaded"):
            download_snapshot(HubRepo(REPO), Silent())


class Recorded(Silent):
    """Counts the items that are asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def track(self, items: Any, *, total: int, unit: str) -> Any:
        self.asked.append((total, unit))
        for item in items:
            self.asked.append(item)
            yield item


class TestMeter:
    def test_bytes_become_megabytes(self) -> None:
        progress = Recorded()
        meter = Meter(progress, 3_500_000)
        meter.add(400_000)
        assert progress.asked == [(4, "MB"), 0]
        meter.add(800_000)
        meter.add(-200_000)
        meter.add(200_000)
        assert progress.asked == [(4, "MB"), 0, 1]
        meter.add(2_300_000)
        meter.close()
        assert progress.asked == [(4, "MB"), 0, 1, 2, 3]

    def test_more_than_was_announced_is_no_error(self) -> None:
        progress = Recorded()
        meter = Meter(progress, 1_000_000)
        meter.add(9_000_000)
        assert progress.asked == [(1, "MB"), 0]

    @pytest.mark.parametrize("total", [0, 999_999])
    def test_small_files_are_not_metered(self, total: int) -> None:
        progress = Recorded()
        meter = Meter(progress, total)
        meter.add(5_000_000)
        meter.close()
        assert progress.asked == []


def test_a_hub_name_becomes_a_bundle(
    hub: Hub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_export: Any
) -> None:
    monkeypatch.setattr(exporting, "export", lambda module, input_size: small_export)
    bundle = vitedge.convert(f"hf:{REPO}@main", target="cpu", precision="fp32", output=tmp_path / "vit.bundle")
    model = bundle.manifest.model
    assert (model.name, model.source, model.revision) == ("vit", f"hf:{REPO}@main", COMMIT)
    assert model.labels == checkpoints.CLASSES
    assert model.weights_sha256 == sha256_of(checkpoint / "model.safetensors")
    assert json.loads((bundle.path / "manifest.json").read_text())["model"]["revision"] == COMMIT
    assert isinstance(download_snapshot(HubRepo(REPO), Silent()), Snapshot)


def test_the_default_output_is_named_by_the_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.refused[REPO] = (404, "RepoNotFound")
    with pytest.raises(CheckpointError):
        vitedge.convert(f"hf:{REPO}", target="cpu", precision="fp32")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "token"}
