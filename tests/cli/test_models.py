"""The table of ``vitedge models`` says what timm and the flop counter of PyTorch say."""

from __future__ import annotations

import pytest

from vitedge.cli import main
from vitedge.cli.models import MODELS, KnownModel

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_table_is_true(model: KnownModel) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = timm.create_model(model.name, exportable=True).eval()
    assert network.pretrained_cfg["input_size"] == (3, model.input_size, model.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, model.input_size, model.input_size, device="meta"))
    assert round(sum(each.numel() for each in network.parameters()) / 1e6, 2) == model.parameters
    assert round(counter.get_total_flops() / 2e9, 2) == model.gmacs


def test_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(MODELS)]] == [model.name for model in MODELS]
    assert lines[1].split() == ["deit_tiny_patch16_224", "224x224", "5.72", "M", "1.25"]
