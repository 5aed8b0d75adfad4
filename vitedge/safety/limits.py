"""The limits of everything that vitedge reads. A file that exceeds a limit is refused by name, before it is read.

Sizes are in bytes unless a name says otherwise.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MANIFEST_BYTES = 2 * MIB
"""Size of ``manifest.json`` and of ``tensorrt/build.json``; ImageNet-21k's labels and IDs take 1.4 MB."""
JSON_BYTES = 16 * MIB
"""Size of any other JSON: model configurations, headers, records of the cache."""
JSON_DEPTH = 50
"""Nesting of objects and arrays."""
TEXT_BYTES = 64 * MIB
"""Size of a text file: labels, lists of images."""
LABELS = 1_000_000
"""Lines of a labels file."""
LABEL_CHARACTERS = 1_000
"""Characters of a label."""
LISTED_IMAGES = 1_000_000
"""Lines of a list of images."""
MESSAGE_CHARACTERS = 10_000
"""Characters of each part of an error's text."""
NAME_CHARACTERS = 256
"""Characters of a mistyped name that is compared with known names."""
NAMES_COMPARED = 10_000
"""Known names that a mistyped name is compared with."""

GOLDEN_BYTES = 64 * MIB
"""Size of ``golden.npz`` after decompression, all arrays together."""
ARRAYS_DIRECTORY_BYTES = 64 * KIB
"""Size of the directory of an ``.npz`` file, and of one read from the file; the directory has two or three
entries."""
ARRAY_HEADER_BYTES = 1 * KIB
"""Size of the header of an array; NumPy writes 128 bytes."""
SIGNATURES_BYTES = 64 * KIB
"""Size of ``manifest.sig``."""
BUNDLE_SIGNATURES = 16
"""Signatures of one bundle."""
KEY_BYTES = 64 * KIB
"""Size of a public or private key."""
TRUSTED_KEYS = 1_000
"""Keys in a folder of trusted keys."""
BUNDLE_FILES = 1_000
"""Files that a manifest lists, and entries of a bundle's folder."""

IMAGE_BYTES = 512 * MIB
"""Size of an image file."""
IMAGE_PIXELS = 100_000_000
"""Pixels of an image or of a video frame."""
IMAGE_SIDE = 1 << 17
"""Longest side of an image or frame; the weights of a resize grow with it."""
RESIZED_SIDE = 1 << 24
"""Longest side of a resized frame, of which only a window is computed."""
IMAGE_SLOW_PIXELS = 4_000_000
"""Pixels of an image that Pillow decodes in Python: PPM as text or of odd depth, BMP with run lengths."""
IMAGE_WEBP_PIXELS = IMAGE_PIXELS // 2
"""Pixels of a WebP, AVIF, HEIF or JPEG 2000, whose decoders hold a frame several times."""
IMAGE_SCANS = 100
"""Scans of a JPEG; a progressive JPEG has about ten."""
IMAGE_HEADER_BYTES = 32 * MIB
"""Size of a JPEG before its first scan."""
IMAGE_PARTS = 100_000
"""Segments, tags and strips of an image file."""
IMAGE_READS = 400_000
"""Reads that a decoder may take for an image file."""
VIDEO_BYTES = 1 << 40
"""Size of a video file."""
VIDEO_SAMPLES = 10_000_000
"""Video and audio samples that an MP4 declares in one place."""
VIDEO_BOXES = 1_000_000
"""Boxes of an MP4; ten for each fragment."""
RTSP_HEAD_BYTES = 16 * KIB
"""Size of the headers of an RTSP answer."""
RTSP_HEADERS = 100
"""Headers of an RTSP answer."""
RTSP_BODY_BYTES = 256 * KIB
"""Size of the body of an RTSP answer, which is a description in SDP."""
RTSP_TRACKS = 100
"""Tracks of a description."""
RTSP_WAITING_PACKETS = 1_000
"""Packets that are kept while an RTSP request waits for its answer."""
ACCESS_UNIT_BYTES = 32 * MIB
"""Size of a coded picture of an RTP stream."""
INPUT_SIDE = 4_096
"""Longest side of a network's input and of the image that it is cropped from, in pixels."""
RESUME_LOG_BYTES = 4 * GIB
"""Size of the log of an interrupted evaluation."""
FOLDER_DEPTH = 64
"""Nesting of folders below a named folder."""
FOLDER_ENTRIES = 10_000_000
"""Files and folders below a folder of images."""

GRAPH_BYTES = 8 * GIB
"""Size of an ONNX graph with its external data, and of an OpenVINO IR; EVA-g and DINOv2-g take 4.5 GB in float32."""
GRAPH_NODES = 200_000
"""Nodes of a graph with all functions inlined, including branches and loop bodies."""
GRAPH_DEPTH = 32
"""Nesting of subgraphs and of function calls."""
GRAPH_FIELDS = 2_000_000
"""Fields of a serialized graph: names, attributes, shapes. DeiT-Tiny in int8 has 7,000. An empty field takes up to
170 bytes of memory."""
GRAPH_NAME_CHARACTERS = 4_096
"""Characters of a name in a graph."""
GRAPH_WHOLE_BYTES = 2 * GIB - MIB
"""Size of a graph in one piece, as protobuf takes it; a larger one has its weights in a second file."""
GRAPH_COPIES = 10
"""Memory for checking and running a graph, in multiples of its weights, in addition to ``SANDBOX_MEMORY``."""
GRAPH_TIMES = 8
"""Processor time for checking a graph and running it once, in multiples of the time for importing the libraries."""
GRAPH_NODES_A_TIME = 200
"""Nodes of the file that add one to ``GRAPH_TIMES``; Swin-Tiny takes 11 of its 33."""
GRAPH_GIB_TIMES = 60
"""Each GiB of weights adds this to ``GRAPH_TIMES``."""
TENSOR_DIMENSIONS = 16
"""Dimensions of a tensor."""
IR_BYTES = 64 * MIB
"""Size of ``openvino/model.xml``; DeiT-Tiny in int8 has 0.9 MB."""
CHECKPOINT_BYTES = 64 * GIB
"""Size of a checkpoint's weights, all shards together."""
CHECKPOINT_TENSORS = 100_000
"""Tensors of a checkpoint."""
CHECKPOINT_SHARING = 4
"""Tensors may share numbers of a checkpoint; together they take at most this many times its size."""
CHECKPOINT_SPARE = 64 * MIB
"""Memory that the tensors may take in addition."""
PICKLE_BYTES = 64 * MIB
"""Size of the part of a ``.pth`` file that describes its tensors."""
PICKLE_OPERATIONS = 2_000_000
"""Operations of this part; a tensor takes about 60."""
PROGRAM_BYTES = 64 * MIB
"""Size of the JSON of a ``torch.export`` program; a node takes about 3 KB."""
PROGRAM_MEMORY = 8
"""Memory for exporting a program, in multiples of its file, in addition to ``SANDBOX_MEMORY``; Swin-Tiny takes
5.8."""
PROGRAM_COPIES = 4
"""Size of the files that exporting a program writes, in multiples of its file, in addition to ``CHECKPOINT_SPARE``: a
copy of the program, and its graph."""
PROGRAM_RATE = 256 * KIB
"""Loading and exporting a program may take one second for so many bytes of its file, in addition to
``SANDBOX_SECONDS``."""
ARCHIVE_DIRECTORY_BYTES = 16 * MIB
"""Size of the directory of a zip archive; an entry of PyTorch takes about 100 bytes."""
MODEL_NUMBER = 1_000_000
"""Any number in a configuration: sizes, layers, classes."""
MODEL_MODULES = 5_000
"""PyTorch modules of a model; the deepest model of timm has 2,500."""
MODEL_SHARING = 2
"""Parameters that a configuration may declare, in multiples of the numbers in its weights."""
MODEL_SPARE = 1 << 26
"""Parameters that it may declare in addition."""
MODEL_ACTIVATION = 1 << 28
"""Numbers of one tensor while a model classifies one image, unless its weights hold more."""

PLAN_BYTES = 8 * GIB
"""Size of a TensorRT plan."""
TIMINGS_BYTES = 256 * MIB
"""Size of a plan's timing cache."""

SANDBOX_MEMORY = 1 * GIB
"""Memory of a sandbox, in addition to the interpreter with its libraries and to what the model's file justifies."""
SANDBOX_SECONDS = 120.0
"""Time for checking an untrusted graph."""
SANDBOX_START_SECONDS = 300.0
"""Time until a sandbox has imported its libraries."""
SANDBOX_FILES = 1_000
"""Files that a sandbox may create in its folder."""
