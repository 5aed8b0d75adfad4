"""The bounds of everything that vitedge reads. A file beyond one of them is refused by name, before it is read.

Sizes are in bytes unless a name says otherwise.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MANIFEST_BYTES = 1 * MIB
"""``manifest.json`` and ``tensorrt/build.json``; 10,000 labels take 0.3 MB."""
JSON_BYTES = 16 * MIB
"""Any other JSON: configurations of models, headers, records of the cache."""
JSON_DEPTH = 50
"""Objects and arrays within each other."""
TEXT_BYTES = 64 * MIB
"""Text files: labels, lists of images."""
LABELS = 1_000_000
"""Lines of a file of labels."""
LABEL_CHARACTERS = 1_000
"""Of one label."""
LISTED_IMAGES = 1_000_000
"""Lines of a list of images."""
MESSAGE_CHARACTERS = 10_000
"""Each part of an error's text."""
NAME_CHARACTERS = 256
"""Of a mistyped name that is compared with known ones."""
NAMES_COMPARED = 10_000
"""Known names that a mistyped one is compared with."""

GOLDEN_BYTES = 64 * MIB
"""``golden.npz`` after inflation, all arrays together."""
ARRAYS_DIRECTORY_BYTES = 64 * KIB
"""The directory of an ``.npz`` file, and what is read of one at a time; it has two or three entries."""
ARRAY_HEADER_BYTES = 1 * KIB
"""The header of an array; NumPy writes 128 bytes."""
SIGNATURES_BYTES = 64 * KIB
"""``manifest.sig``."""
BUNDLE_SIGNATURES = 16
"""Signatures of one bundle."""
KEY_BYTES = 64 * KIB
"""A public or private key."""
TRUSTED_KEYS = 1_000
"""Keys in a folder of trusted ones."""
BUNDLE_FILES = 1_000
"""Files that a manifest may list, and entries that a bundle's folder may have."""

IMAGE_BYTES = 512 * MIB
"""An image file."""
IMAGE_PIXELS = 100_000_000
"""Of an image or a video's frame."""
IMAGE_SIDE = 1 << 17
"""Longest side of an image or frame: the weights of a resize grow with it."""
RESIZED_SIDE = 1 << 24
"""Longest side of a resized frame, of which a window is computed."""
IMAGE_SLOW_PIXELS = 4_000_000
"""Of an image that Pillow decodes in Python: PPM as text or of odd depth, BMP with run lengths."""
IMAGE_WEBP_PIXELS = IMAGE_PIXELS // 2
"""Of a WebP, whose decoder holds each frame three times."""
IMAGE_SCANS = 100
"""Of a JPEG; a progressive one has about ten."""
IMAGE_HEADER_BYTES = 32 * MIB
"""Of a JPEG before its first scan."""
IMAGE_PARTS = 100_000
"""Segments, tags and strips of an image file."""
IMAGE_READS = 400_000
"""Pieces in which a decoder may read an image file."""
VIDEO_BYTES = 1 << 40
"""A video file."""
VIDEO_SAMPLES = 10_000_000
"""Frames and sounds that an MP4 declares in one place."""
VIDEO_BOXES = 1_000_000
"""Parts of an MP4; ten for each fragment."""
INPUT_SIDE = 4_096
"""Longest side of a network's input and of the image that it is cropped from, in pixels."""
RESUME_LOG_BYTES = 4 * GIB
"""Answers of an evaluation that was interrupted."""
FOLDER_DEPTH = 64
"""Folders within each other, below the folder that was named."""
FOLDER_ENTRIES = 10_000_000
"""Files and folders below a folder of images."""

GRAPH_BYTES = 4 * GIB
"""An ONNX graph with its external data, and an IR."""
GRAPH_NODES = 200_000
"""Nodes with every function inlined, those of branches and loops among them."""
GRAPH_DEPTH = 32
"""Subgraphs within each other, and functions that call functions."""
GRAPH_FIELDS = 2_000_000
"""Fields of a serialized graph: names, attributes, shapes; that of DeiT-Tiny in int8 has 7,000. An empty one takes up
to 170 bytes of memory."""
GRAPH_NAME_CHARACTERS = 4_096
"""Of a name in a graph."""
GRAPH_WHOLE_BYTES = 2 * GIB - MIB
"""A graph with its weights in one piece, as protobuf and ONNX Runtime take it."""
GRAPH_COPIES = 10
"""What checking and running a graph may take, in sizes of its weights, beside ``SANDBOX_MEMORY``."""
GRAPH_TIMES = 8
"""Processor time for checking a graph and running it once, in times that importing the libraries took."""
GRAPH_NODES_A_TIME = 200
"""Nodes of the file for which one is added to that; Swin-Tiny takes 11 of its 33."""
GRAPH_GIB_TIMES = 60
"""What is added to that for each GiB of weights."""
TENSOR_DIMENSIONS = 16
"""Of one tensor."""
IR_BYTES = 64 * MIB
"""``openvino/model.xml``; that of DeiT-Tiny in int8 has 0.9 MB."""
CHECKPOINT_BYTES = 64 * GIB
"""Weights of a checkpoint, all shards together."""
CHECKPOINT_TENSORS = 100_000
"""Tensors of a checkpoint."""
CHECKPOINT_SHARING = 4
"""Tensors may repeat the numbers of a checkpoint: together they take this many times its size."""
CHECKPOINT_SPARE = 64 * MIB
"""What they may take beyond that."""
PICKLE_BYTES = 64 * MIB
"""The part of a ``.pth`` file that says what its tensors are."""
PICKLE_OPERATIONS = 2_000_000
"""Of that part; a tensor takes about 60."""
PROGRAM_BYTES = 64 * MIB
"""The JSON of a program of ``torch.export``; a node takes about 3 KB."""
PROGRAM_MEMORY = 8
"""What exporting a program may take, in sizes of its file, beside ``SANDBOX_MEMORY``; Swin-Tiny takes 5.8."""
PROGRAM_COPIES = 4
"""What exporting a program may write, in sizes of its file, beside ``CHECKPOINT_SPARE``: it is copied, and its graph
written."""
PROGRAM_RATE = 256 * KIB
"""Loading and exporting a program may take a second for so many bytes of its file, beside ``SANDBOX_SECONDS``."""
ARCHIVE_DIRECTORY_BYTES = 16 * MIB
"""The directory of a zip archive; an entry of PyTorch's takes about 100 bytes."""
MODEL_NUMBER = 1_000_000
"""Any number in a configuration: sizes, layers, classes."""
MODEL_MODULES = 20_000
"""Of PyTorch in a model; the deepest of timm has 2,500."""
MODEL_SHARING = 2
"""A configuration may ask for this many times the numbers that its weights hold."""
MODEL_SPARE = 1 << 26
"""What it may ask for beyond that."""
MODEL_ACTIVATION = 1 << 28
"""Numbers of one tensor while a model classifies one image, if its weights do not hold more."""

PLAN_BYTES = 8 * GIB
"""A TensorRT plan."""
TIMINGS_BYTES = 256 * MIB
"""What TensorRT timed for a plan."""

SANDBOX_MEMORY = 1 * GIB
"""Above what the interpreter and its libraries take, and above what the model's own file justifies."""
SANDBOX_SECONDS = 120.0
"""Longest time that checking a stranger's graph may take."""
SANDBOX_START_SECONDS = 300.0
"""Longest time until a child has imported its libraries."""
SANDBOX_FILES = 1_000
"""Files that a child may make in its folder."""
