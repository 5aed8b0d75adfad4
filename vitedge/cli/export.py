"""``vitedge export``: a bundle in the format of another tool, or slim for its device."""

from __future__ import annotations

import argparse
from typing import Any

from vitedge.cli import output
from vitedge.cli.flags import call
from vitedge.progress import reporting
from vitedge.safety.escape import terminal_lines

EPILOG = """\
tools:
  device      slim bundle for the device: the network once, and no ONNX graph
  deepstream  configuration of nvinfer, with its graph and labels
  triton      model repository of the Triton Inference Server
  optimum     folder for optimum-intel's OVModelForImageClassification, and for
              the pipelines of Transformers
  model-api   OpenVINO IR that preprocesses images of any size itself, as the
              bundle does, for OpenVINO Model API

examples:
  vitedge export deit.bundle --for device -o deit-device.bundle
  vitedge export deit.bundle --for deepstream -o deit-deepstream
  vitedge export deit.bundle --for triton -o model-repository
  vitedge export deit.bundle --for optimum -o deit-optimum
  vitedge export deit.bundle --for model-api --data photos/ -o deit-model-api
"""


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "export",
        help="a slim bundle for the device, or a bundle for DeepStream, Triton, optimum-intel or Model API",
        description="Write a slim bundle for the device, or a bundle in the format of another tool.",
        epilog=EPILOG,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--for",
        required=True,
        dest="tool",
        metavar="TOOL",
        help="device, deepstream, triton, optimum or model-api, see below",
    )
    parser.add_argument(
        "--data",
        metavar="PHOTOS",
        help="for model-api: compare its answers with the bundle's on these photos; a folder, a list (.txt) or a video",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder to write (default: BUNDLE-TOOL)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the folder of an earlier export; it must hold nothing else"
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and tell how to use the result."""
    from vitedge.converters.integrations.export import export

    with reporting(arguments.progress, f"exporting {arguments.bundle}"):
        exported = call(export, arguments)
    output.tell(terminal_lines([str(exported.path), *(f"  {note}" for note in exported.notes)]))
    return 0
