"""The proof's table: its contents, its stored file, and that it can fail."""
import json
import math
from pathlib import Path

import pytest
import torch

from convnext_nb import bench, convnext, peers, proof, resnet, roadmap, swin, weights

STORED = json.loads((Path(__file__).parent.parent / "nbs/runs/measured/proof.json").read_text())
ROWS = {row["network"]: row for row in STORED["networks"]}


def test_every_network_of_the_library_is_in_the_table():
    def makers(module, start):
        return {name for name in dir(module) if name.startswith(start) and name != start}
    everything = (makers(convnext, "convnext_") | makers(convnext, "convnextv2_")
                  | makers(resnet, "resnet") | makers(swin, "swin_"))
    assert everything == set(proof.PUBLISHED) == set(ROWS)


class Plus(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x): return x + self.value


@pytest.mark.parametrize("order", [(0.0, float("nan")), (float("nan"), 0.0)])
def test_a_network_without_numbers_is_a_difference(order, monkeypatch):
    nets = {"ours": Plus(0.0), **{str(i): Plus(v) for i, v in enumerate(order)}}
    assert math.isnan(peers.largest_gap(nets, torch.ones(1)))
    monkeypatch.setattr(bench, "networks", lambda **sizes: {})
    monkeypatch.setattr(bench, "largest_gap", lambda *args: float("nan"))
    with pytest.raises(ValueError, match="the networks differ: logits are nan apart"):
        bench.candidates("inference", "fp32", "channels last", batch=1, size=32)
    found = dict(zip(("timm", "transformers"), order))
    def gaps(name, among, dtype=torch.float32):
        return found if dtype == torch.float64 else dict.fromkeys(found, 0.0)
    monkeypatch.setattr(proof, "gaps", gaps)
    row = proof.proof_row("convnext_atto")
    assert math.isnan(row["float64"])
    assert proof.differing([row], tuple(found)) == ["convnext_atto"]


@pytest.mark.parametrize("value, like, printed", [
    (28_589_128, "29 M", "29 M"), (15_593_560, "15.6 M", "15.6 M"), (15_007_479_808, "15.01 G",
     "15.01 G"), (25_557_032, "25,557,032", "25,557,032"), (9_045_672, "9.1 M", "9.0 M"),
    (1, None, None)])
def test_rounded(value, like, printed):
    assert proof.rounded(value, like) == printed


@pytest.mark.parametrize("make, library, said", [
    (lambda: convnext.ConvNeXtIsotropic(2, 8), "torchvision", "torchvision has no isotropic"),
    (lambda: convnext.convnext_atto(layer_scale=None), "torchvision", "has layer scale always"),
    (lambda: roadmap.build("base", width_mult=0.1), "transformers", "transformers has no"),
    (lambda: "no_such", "timm", "timm has no no_such")])
def test_a_network_that_a_library_lacks(make, library, said):
    with pytest.raises(ValueError, match=said):
        peers.build_peer(make(), library)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_no_layer_scale_in_peers_either(library):
    ours = weights.randomize(convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16), layer_scale=None))
    theirs = peers.with_our_weights(ours.eval(), library)
    x = peers.noise()
    assert torch.allclose(peers.logits(theirs, x), peers.logits(ours, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", proof.PUBLISHED)
def test_the_file_is_of_these_networks(name):
    row, counted = ROWS[name], proof.cost_of(name)
    assert (row["params"], row["macs"]) == (counted.params, counted.macs)
    assert (row["published params"], row["published macs"], row["where"]) == proof.PUBLISHED[name]
    measured = [library for library in peers.LIBRARIES if row[library] is not None]
    assert measured == peers.libraries(name)
    assert all(0 <= row[library] < 1e-5 for library in measured) and row["float64"] < 1e-12


def test_columns_by_library():
    have = {library: [n for n in ROWS if ROWS[n][library] is not None]
            for library in peers.LIBRARIES}
    assert {library: len(names) for library, names in have.items()} == {
        "timm": 29, "torchvision": 13, "transformers": 26}
    assert "resnet200" in have["torchvision"] and "convnext_xlarge" not in have["torchvision"]


@pytest.mark.parametrize("name", ["convnext_femto", "convnextv2_femto", "resnet34"])
def test_a_row_measured_again_matches_the_file(name):
    row = proof.proof_row(name)
    assert {k: v for k, v in row.items() if not isinstance(v, float)} == {
        k: v for k, v in ROWS[name].items() if not isinstance(v, float)}
    assert max(row[library] for library in peers.libraries(name)) < 1e-5 and row["float64"] < 1e-12


def test_isotropic_of_timms_blocks():
    for scale in (None, 1e-6):
        ours = convnext.ConvNeXtIsotropic(3, 16, layer_scale=scale)
        ours = weights.randomize(ours).double().eval()
        theirs = peers.with_our_weights(ours, "timm")
        x = peers.noise(40).double()
        assert peers.gap(peers.logits(ours, x), peers.logits(theirs, x)) < 1e-12


def spoiled(change):
    "`with_our_weights`, with a change to what it builds."
    def build(ours, library, name):
        net = peers.with_our_weights(ours, library, name)
        change(net)
        return net
    return build


def eps(net):
    for m in net.modules():
        if hasattr(m, "eps"):
            m.eps = 2e-6


def head(net):
    net.get_submodule("head.fc").bias = None


@pytest.mark.parametrize("change, single", [(eps, True), (head, False)])
def test_a_fault_ends_the_command_with_an_error(change, single, monkeypatch, capsys):
    monkeypatch.setattr(proof, "with_our_weights", spoiled(change))
    monkeypatch.setattr(proof, "installed", lambda: ("timm",))
    with pytest.raises(SystemExit) as stopped:
        proof.cnx_proof(network="convnext_atto", json=True)
    out = capsys.readouterr()
    assert stopped.value.code == 1 and "other libraries': convnext_atto" in out.err
    row, = json.loads(out.out)["networks"]
    assert (row["timm"] < 1e-5) == single and row["float64"] > 1e-7  # 32 bits miss the epsilon


def test_a_library_that_is_not_installed_is_left_out(monkeypatch, capsys):
    found = peers.find_spec
    monkeypatch.setattr(peers, "find_spec", lambda name: name != "transformers" and found(name))
    proof.cnx_proof(network="resnet18", json=True)
    made = json.loads(capsys.readouterr().out)
    assert made["machine"]["torch"] == torch.__version__ and "transformers" not in made["machine"]
    row, = made["networks"]
    assert row["torchvision"] < 1e-5 and "transformers" not in row
    proof.cnx_proof(network="resnet18")
    line = capsys.readouterr().out
    assert line.startswith("resnet18 ") and "11,689,512" in line and "transformers" not in line
    assert "transformers" not in proof.markdown(made["networks"])


def test_networks_that_do_not_exist(capsys):
    with pytest.raises(SystemExit) as stopped:
        proof.cnx_proof(network="vit")
    assert stopped.value.code == 1
    assert "no network 'vit'; there are: convnext_atto" in capsys.readouterr().err


def test_the_front_pages_table():
    head, rule, *lines = proof.markdown(list(ROWS.values())).splitlines()
    assert len(lines) == 29 and {line.count("|") for line in (head, rule, *lines)} == {10}
    assert lines[4].startswith("| convnext_tiny | 28,589,128 | 29 M | 4.4555 G | 4.5 G | ")
