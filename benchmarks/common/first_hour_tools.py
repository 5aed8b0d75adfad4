"""The tools of ``benchmarks/first_hour.py``, with the commands that their documentation prints."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from common.walkthrough import Step

LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
DEMO, INT8, CAMERA, LATENCY = "the demo", "an int8 model", "a camera's first label", "a latency"
GOALS = (DEMO, INT8, CAMERA, LATENCY)


@dataclass(frozen=True)
class Tool:
    """A tool, and the way of its documentation.

    Attributes:
        name: of its folder.
        title: on the page.
        activate: script of its virtual environment, relative to its folder.
        steps: in their order.
        leads_to: names of the steps to each goal.
        absent: what a user does instead, for each goal that the tool does not have.
    """

    name: str
    title: str
    activate: str
    steps: tuple[Step, ...]
    leads_to: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, str] = field(default_factory=dict)

    def steps_to(self, goal: str) -> tuple[str, ...]:
        """Return the names of the steps to a goal; none if the tool does not have it."""
        return self.leads_to.get(goal, ())

    def can_go_on(self, step: str, failed: Set[str]) -> bool:
        """Tell whether a step still leads to a goal after some steps failed."""
        return any(step in steps and not failed & set(steps) for steps in self.leads_to.values())


VITEDGE = Tool(
    "vitedge",
    "vitedge",
    "vitedge/.venv/bin/activate",
    (
        Step("clone", ("git clone ADDRESS vitedge",)),
        Step("demo", ("cd vitedge", "make demo")),
        Step(
            "install",
            (
                "cd vitedge",
                "python3 -m venv .venv",
                ". .venv/bin/activate",
                'pip install -e ".[transformers,camera]"',
            ),
        ),
        Step(
            "int8",
            ("vitedge convert my-model --target cpu --precision int8 --calib photos/calib -o my-int8.bundle",),
        ),
        Step("camera", ("vitedge run my-int8.bundle --source CAMERA",), until="|".join(LABELS)),
        Step("latency", ("vitedge bench my-int8.bundle",)),
    ),
    {
        DEMO: ("clone", "demo"),
        INT8: ("clone", "install", "int8"),
        CAMERA: ("clone", "install", "int8", "camera"),
        LATENCY: ("clone", "install", "int8", "latency"),
    },
)

ULTRALYTICS = Tool(
    "ultralytics",
    "Ultralytics, yolov8n-cls",
    ".venv/bin/activate",
    (
        Step("install", ("python3 -m venv .venv", ". .venv/bin/activate", "pip install ultralytics")),
        Step("demo", ("yolo classify predict model=yolov8n-cls.yaml",)),
        # yolo itself installs this extra, unless it takes the machine for offline.
        Step(
            "int8",
            (
                'pip install "ultralytics[export-openvino]"',
                "yolo export model=yolov8n-cls.yaml format=openvino quantize=8 data=photos imgsz=224",
            ),
        ),
        Step(
            "camera",
            ("yolo predict task=classify model=yolov8n-cls_int8_openvino_model/ imgsz=224 source=CAMERA",),
            until=r"224x224 .*\dms",
        ),
        Step("latency", ("yolo benchmark model=yolov8n-cls.yaml data=photos imgsz=224 format=openvino quantize=8",)),
    ),
    {
        DEMO: ("install", "demo"),
        INT8: ("install", "int8"),
        CAMERA: ("install", "int8", "camera"),
        LATENCY: ("install", "int8", "latency"),
    },
)

QUANTIZE = """\
from datasets import load_dataset
from optimum.intel import OVConfig, OVModelForImageClassification, OVQuantizationConfig, OVQuantizer
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained("my-model")
model = OVModelForImageClassification.from_pretrained("my-model", export=True)

def preprocess(examples):
    images = [image.convert("RGB") for image in examples["image"]]
    return {"pixel_values": processor(images)["pixel_values"]}

photos = load_dataset("imagefolder", data_dir="photos/calib", split="train")
photos = photos.map(preprocess, batched=True, remove_columns=photos.column_names)
OVQuantizer.from_pretrained(model).quantize(
    ov_config=OVConfig(quantization_config=OVQuantizationConfig(bits=8)),
    calibration_dataset=photos,
    save_directory="my-int8",
)
processor.save_pretrained("my-int8")
"""
WATCH = """\
import cv2
from optimum.intel import OVModelForImageClassification
from PIL import Image
from transformers import AutoImageProcessor, pipeline

model = OVModelForImageClassification.from_pretrained("my-int8")
processor = AutoImageProcessor.from_pretrained("my-int8")
classify = pipeline("image-classification", model=model, image_processor=processor)
camera = cv2.VideoCapture("CAMERA")
while True:
    read, frame = camera.read()
    if not read:
        break
    print(classify(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))[0])
"""

OPTIMUM = Tool(
    "optimum",
    "Optimum Intel",
    ".venv/bin/activate",
    (
        # Installed afterwards, datasets brings a huggingface-hub that Transformers refuses.
        Step(
            "install",
            (
                "python3 -m venv .venv",
                ". .venv/bin/activate",
                'python -m pip install -U "optimum-intel[openvino]" datasets',
            ),
        ),
        Step("int8", ("python quantize.py",), {"quantize.py": QUANTIZE}),
        Step(
            "camera",
            ("pip install opencv-python-headless", "python watch.py"),
            {"watch.py": WATCH},
            until="|".join(LABELS),
        ),
        Step("latency", ('benchmark_app -m my-int8/openvino_model.xml -shape "[1,3,224,224]" -hint latency -t 10',)),
    ),
    {
        INT8: ("install", "int8"),
        CAMERA: ("install", "int8", "camera"),
        LATENCY: ("install", "int8", "latency"),
    },
    {DEMO: "its examples load models from a hub"},
)

TOOLS = (VITEDGE, ULTRALYTICS, OPTIMUM)
