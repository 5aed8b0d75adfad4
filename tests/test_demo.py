"""The demo's parts: the split, the rendering, the clip, the checkpoint, and what is measured."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.data
import torch
from browsers import seen_by_chromium
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.demo import annotate, clip, measure, train
from vitedge.demo.clip import FRAMES_PER_DIGIT, choose, clip_frames, frames_in, read_frames, write_clip, write_video
from vitedge.demo.demo import CHECKPOINT
from vitedge.demo.digits import LABELS, Digits, Split, load_split
from vitedge.demo.measure import Streamed, accuracy_of, latencies_of, streamed
from vitedge.demo.photos import sample, write_photos
from vitedge.demo.scenes import MATERIALS, Scene, random_scene, render
from vitedge.errors import VitedgeError
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.progress import Silent
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def split() -> Split:
    return load_split()


@pytest.fixture(scope="module")
def checkpoint() -> torch.nn.Module:
    network: torch.nn.Module = timm.create_model(f"local-dir:{CHECKPOINT}", pretrained=True)
    return network.eval()


class TestSplit:
    def test_no_digit_is_in_both_and_none_is_lost(self, split: Split) -> None:
        assert len(split.training) + len(split.held_out) == 1797
        training = {scan.tobytes() for scan in split.training.scans}
        held_out = {scan.tobytes() for scan in split.held_out.scans}
        assert not training & held_out

    def test_a_quarter_of_every_class_is_held_out(self, split: Split) -> None:
        held_out, training = (np.bincount(part.labels) for part in (split.held_out, split.training))
        shares = held_out / (held_out + training)
        assert np.all(np.abs(shares - 0.25) < 0.005)

    def test_it_never_changes(self, split: Split) -> None:
        again = load_split()
        np.testing.assert_array_equal(again.held_out.scans, split.held_out.scans)
        digest = hashlib.sha256(np.round(split.held_out.scans * 16).astype(np.uint8).tobytes()).hexdigest()
        assert digest == "a20fe9dc39816dbf45a3d580024bde4cdf3438ded404e65391949b6e8660b975"

    def test_ink_is_between_none_and_full(self, split: Split) -> None:
        assert split.training.scans.min() == 0.0
        assert split.training.scans.max() == 1.0


class TestRendering:
    def test_equal_scenes_give_equal_frames_and_other_noise_others(self, split: Split) -> None:
        frames = [
            render(split.training.scans[0], Scene(), height=120, random=np.random.default_rng(seed))
            for seed in (1, 1, 2)
        ]
        np.testing.assert_array_equal(frames[0], frames[1])
        assert np.any(frames[0] != frames[2])
        assert frames[0].shape == (120, 160, 3)

    def test_ink_lies_where_the_scan_has_it(self) -> None:
        scan = np.zeros((8, 8), dtype=np.float32)
        scan[1, 6] = 1.0
        scene = Scene(size=0.8, noise=0.0, blur=0.0, threshold=0.3)
        blank = render(np.zeros((8, 8), dtype=np.float32), scene, height=240, random=np.random.default_rng(0))
        inked = render(scan, scene, height=240, random=np.random.default_rng(0))
        rows, columns = np.nonzero(np.any(blank != inked, axis=2))
        assert rows.mean() == pytest.approx(120 + 240 * 0.8 / 8 * (1 - 3.5), abs=1.0)
        assert columns.mean() == pytest.approx(160 + 240 * 0.8 / 8 * (6 - 3.5), abs=1.0)

    def test_the_scene_is_the_same_at_every_height(self, split: Split) -> None:
        scene = Scene(center=(0.1, -0.05), angle=0.2, noise=0.0)
        large, small = (
            render(split.training.scans[5], scene, height=height, random=np.random.default_rng(0)).astype(float)
            for height in (480, 120)
        )
        shrunk = large.reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
        assert np.mean(np.abs(shrunk - small)) < np.mean(np.abs(shrunk[:, ::-1] - small)) / 5

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1 << 30))
    def test_every_random_scene_shows_its_digit(self, seed: int) -> None:
        """The pen differs from the card by enough to be seen, and the digit's centre is in the picture's square."""
        random = np.random.default_rng(seed)
        scene = random_scene(random)
        full, none = (np.full((8, 8), ink, dtype=np.float32) for ink in (1.0, 0.0))
        inked, blank = (
            render(scan, replace(scene, noise=0.0), height=48, random=random).astype(float) for scan in (full, none)
        )
        assert np.abs(inked - blank).max() > 40
        assert max(map(abs, scene.center)) < 0.5

    def test_without_spread_scenes_are_plain(self) -> None:
        plain = [random_scene(np.random.default_rng(seed), spread=0.0) for seed in range(5)]
        assert {(scene.size, scene.angle, scene.center, scene.material) for scene in plain} == {
            (plain[0].size, plain[0].angle, plain[0].center, MATERIALS[0])
        }


class TestClip:
    def test_every_class_is_shown_equally_often(self, split: Split) -> None:
        digits = choose(split.held_out)
        assert sorted(digits.labels) == sorted([*range(10)] * clip.DIGITS_PER_CLASS)
        shown = {scan.tobytes() for scan in digits.scans}
        assert shown <= {scan.tobytes() for scan in split.held_out.scans}
        assert len(shown) == len(digits)

    def test_the_same_digits_give_the_same_clip(self, split: Split) -> None:
        digits = choose(split.held_out).take(np.array([0]))
        for one, other in zip(clip_frames(digits), clip_frames(digits), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.shape == (480, 640, 3)

    def test_cards_glide_within_a_digit_and_are_cut_between_digits(self, split: Split) -> None:
        frames = [frame.astype(float) for frame in clip_frames(choose(split.held_out).take(np.arange(2)))]
        steps = [np.mean(np.abs(after - before)) for before, after in itertools.pairwise(frames)]
        cut = steps.pop(FRAMES_PER_DIGIT - 1)
        assert max(steps) < cut / 2
        assert min(steps) > 1.0

    def test_the_video_has_each_frame_and_its_truth(self, split: Split, tmp_path: Path) -> None:
        digits = choose(split.held_out).take(np.arange(2))
        truth = write_clip(tmp_path / "clip.mp4", digits, Silent())
        frames = list(read_frames(tmp_path / "clip.mp4"))
        assert len(truth) == len(frames) == frames_in(digits) == 2 * FRAMES_PER_DIGIT
        assert truth == tuple(LABELS[label] for label in np.repeat(digits.labels, FRAMES_PER_DIGIT))
        for stored, rendered in zip(frames, clip_frames(digits), strict=True):
            assert np.mean(np.abs(stored.astype(float) - rendered)) < 6.0

    def test_a_video_that_cannot_be_written_or_read(self, tmp_path: Path) -> None:
        with pytest.raises(VitedgeError, match="cannot be written: No such file"):
            write_video(tmp_path / "absent" / "clip.mp4", [np.zeros((48, 64, 3), dtype=np.uint8)])
        with pytest.raises(VitedgeError, match="there is no source"):
            list(read_frames(tmp_path / "absent.mp4"))


class TestPhotos:
    def test_a_folder_a_class_in_the_digits_order(self, split: Split, tmp_path: Path) -> None:
        digits = split.training.take(np.arange(12))
        write_photos(tmp_path / "photos", digits, seed=0, progress=Silent())
        written = {int(path.stem): path.parent.name for path in (tmp_path / "photos").rglob("*.jpg")}
        assert written == {number: LABELS[label] for number, label in enumerate(digits.labels)}
        assert sorted(folder.name for folder in (tmp_path / "photos").iterdir()) == sorted(LABELS)

    def test_a_sample_has_no_digit_twice(self, split: Split) -> None:
        chosen = sample(split.training, 300, seed=0)
        assert len({scan.tobytes() for scan in chosen.scans}) == len(chosen) == 300


class TestCheckpoint:
    def test_it_is_small_and_in_half_precision(self) -> None:
        weights = CHECKPOINT / "model.safetensors"
        assert weights.stat().st_size <= MEGABYTE
        tensors = load_file(weights)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())

    def test_its_configuration_is_what_the_training_script_writes(self) -> None:
        assert json.loads((CHECKPOINT / "config.json").read_text()) == train.config()

    def test_it_is_a_real_transformer(self, checkpoint: torch.nn.Module) -> None:
        kinds = {type(module).__name__ for module in checkpoint.modules()}
        assert {"Attention", "LayerNorm", "GELU"} <= kinds

    def test_its_accuracy_is_the_one_that_its_card_states(self, checkpoint: torch.nn.Module, split: Split) -> None:
        card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
        stated = float(re.search(r"Held-out top-1: ([\d.]+) %", card)[1])  # type: ignore[index]
        assert stated >= 97.0
        assert train.top1(checkpoint, split.held_out) == pytest.approx(stated, abs=0.3)  # one digit is 0.22

    def test_weights_of_another_order_do_not_reach_it(self, checkpoint: torch.nn.Module, split: Split) -> None:
        shuffled = Digits(scans=split.held_out.scans[:60], labels=np.roll(split.held_out.labels[:60], 1))
        assert train.top1(checkpoint, shuffled) < 30.0


class TestTraining:
    RECIPE = train.Recipe(epochs=1, batch=16)

    def test_the_seed_decides(self, split: Split) -> None:
        few = split.training.take(np.arange(32))
        weights = [train.train(few, recipe, Silent()).state_dict() for recipe in (self.RECIPE, self.RECIPE)]
        other = train.train(few, replace(self.RECIPE, seed=1), Silent()).state_dict()
        for name, tensor in weights[0].items():
            torch.testing.assert_close(tensor, weights[1][name])
        assert not torch.equal(weights[0]["head.weight"], other["head.weight"])

    def test_what_it_saves_is_what_timm_reads(self, split: Split, tmp_path: Path) -> None:
        network = train.train(split.training.take(np.arange(32)), self.RECIPE, Silent())
        train.save(network, tmp_path / "saved")
        read = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
        images = train.normalized(
            train.rendered(split.held_out.take(np.arange(4)), np.random.default_rng(0), height=64)
        )
        with torch.inference_mode():
            torch.testing.assert_close(read(images), network(images), atol=2e-3, rtol=0.0)

    def test_it_sees_what_timm_would_show_it(self, split: Split) -> None:
        transform = timm.data.create_transform(**timm.data.resolve_data_config(train.config()["pretrained_cfg"]))
        frame = render(split.held_out.scans[0], Scene(), height=240, random=np.random.default_rng(0))
        expected = transform(Image.fromarray(frame[..., ::-1]))
        torch.testing.assert_close(train.normalized(train.network_input(frame)[None])[0], expected)


def answering(label: int) -> Classifier:
    """A classifier that answers the same whatever it sees."""
    logits = np.eye(len(LABELS))[label] * 8
    engine = FakeEngine(lambda _: logits, input_size=(16, 16))
    return Classifier(engine, Preprocessing(input_size=(16, 16), resize_size=(16, 16)), LABELS)


class TestMeasurement:
    def test_accuracy_and_agreement(self, split: Split, tmp_path: Path) -> None:
        digits = split.held_out.take(np.array([int(np.flatnonzero(split.held_out.labels == k)[0]) for k in range(10)]))
        write_photos(tmp_path / "photos", digits, seed=0, progress=Silent())
        classifiers = [answering(3), answering(3), answering(4)]
        first, same, other = accuracy_of(classifiers, tmp_path / "photos", Silent())
        assert (first.top1, same.top1, other.top1) == (10.0, 10.0, 10.0)
        assert (first.agreement, same.agreement, other.agreement) == (100.0, 100.0, 0.0)
        assert first.images == 10

    def test_photos_reach_the_classifier_as_the_camera_saw_them(self, tmp_path: Path) -> None:
        """A photo that is blue in BGR is blue in the engine's RGB frame."""
        (tmp_path / "7").mkdir()
        Image.new("RGB", (16, 16), (0, 0, 255)).save(tmp_path / "7" / "blue.png")
        engine = FakeEngine(lambda _: np.eye(10)[7], input_size=(16, 16))
        classifier = Classifier(engine, Preprocessing(input_size=(16, 16), resize_size=(16, 16)), LABELS)
        (accuracy,) = accuracy_of([classifier], tmp_path, Silent())
        assert accuracy.top1 == 100.0
        np.testing.assert_array_equal(engine.calls[0][8, 8], (0, 0, 255))

    def test_the_stream_is_compared_frame_by_frame(self, split: Split, tmp_path: Path) -> None:
        digits = Digits(scans=split.held_out.scans[:2], labels=np.array([3, 5]))
        truth = write_clip(tmp_path / "clip.mp4", digits, Silent())
        found = streamed(answering(3), tmp_path / "clip.mp4", truth, Silent())
        assert found.top1 == 50.0
        assert [prediction.frame for prediction in found.predictions] == list(range(len(truth)))
        assert all(prediction.image is None for prediction in found.predictions)
        assert found.fps > 0

    def test_latencies_are_those_of_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measure, "WARM_UP_SECONDS", 0.05)
        monkeypatch.setattr(measure, "TURN_SECONDS", 0.01)
        frames = [np.zeros((16, 16, 3), dtype=np.uint8)]
        for latency in latencies_of([answering(1), answering(2)], frames, Silent()):
            assert 0 < latency.infer_p50_ms < latency.p50_ms <= latency.p99_ms
            assert latency.calls >= 12
            assert latency.fps > 0


class TestAnnotation:
    @staticmethod
    def prediction(label: str) -> Prediction:
        candidates = (ClassScore(label, int(label), 0.9), ClassScore("0", 0, 0.1))
        return Prediction(topk=candidates, frame=0, captured_at=0.0, age_ms=1.0, stages_ms=StageTimes(0.1, 0.1, 0.1))

    def test_every_frame_is_drawn_beside_its_answer(self, tmp_path: Path) -> None:
        frames = [np.full((480, 640, 3), grey, dtype=np.uint8) for grey in (90, 90)]
        write_video(tmp_path / "clip.mp4", frames)
        stream = Streamed(predictions=(self.prediction("7"), self.prediction("7")), top1=50.0, fps=100.0)
        annotate.write_annotated(
            tmp_path / "annotated.mp4", tmp_path / "clip.mp4", stream, ("7", "1"), "int8", Silent()
        )
        right, wrong = read_frames(tmp_path / "annotated.mp4")
        assert right.shape == (480, 640 + annotate.SIDEBAR, 3)
        assert np.abs(right[100:400, -500:-100].astype(float) - 90).mean() < 10  # compressed twice
        assert np.abs(right[100:400, :20].astype(float) - 90).mean() > 50
        blue, green, red = right[200:280, -4].mean(axis=0)
        assert green > max(blue, red)
        blue, green, red = wrong[200:280, -4].mean(axis=0)
        assert red > max(blue, green)

    @pytest.mark.timeout(200)
    def test_a_browser_plays_the_clip_and_the_result(self, tmp_path: Path) -> None:
        clip, annotated = tmp_path / "clip.mp4", tmp_path / "annotated.mp4"
        write_video(clip, [np.full((480, 640, 3), 200, dtype=np.uint8)] * 24)
        stream = Streamed(predictions=(self.prediction("7"),) * 24, top1=100.0, fps=100.0)
        annotate.write_annotated(annotated, clip, stream, ("7",) * 24, "int8", Silent())
        for path, width in ((clip, 640), (annotated, 640 + annotate.SIDEBAR)):
            seen = seen_by_chromium(path, [0.5])
            assert (seen.width, seen.height, seen.duration) == (width, 480, pytest.approx(1.0, abs=0.01))
            assert min(seen.colours[0]) > 180

    def test_a_stream_that_lost_frames_is_not_drawn(self, tmp_path: Path) -> None:
        write_video(tmp_path / "clip.mp4", [np.zeros((480, 640, 3), dtype=np.uint8)] * 2)
        stream = Streamed(predictions=(self.prediction("7"),), top1=100.0, fps=100.0)
        with pytest.raises(ValueError, match="zip"):
            annotate.write_annotated(
                tmp_path / "annotated.mp4", tmp_path / "clip.mp4", stream, ("7", "7"), "int8", Silent()
            )
